use super::*;
use crate::{
    attribution::{Caller, Demand, Load, Object, Prefix, Ranked, Ranking},
    cli::top::source::{
        Calls, Cluster, ClusterMirror, Collection, Gate, Happening, Listener, Member, Memory,
        Mirror, Protection, Queue, Route, Standing, Status,
    },
};
use ratatui::{Terminal, backend::TestBackend};
use std::time::Duration;
use tokio::time::Instant;

fn ranked<N>(name: N, cost: f64, requests: u64, bytes: u64) -> Ranked<N> {
    let load = Load { cost, requests, bytes, keys: requests * 10 };
    Ranked { name, load, share: cost / 1_000.0, error: 0.0 }
}

fn prefix(name: &str) -> Prefix {
    Prefix { cluster: "main".into(), prefix: name.into() }
}

fn caller(name: &str, address: &str) -> Caller {
    Caller { client: name.into(), address: address.into() }
}

fn demand(shape: &str, prefix: &str, client: &Caller) -> Demand {
    let Caller { client, address } = client.clone();
    Demand { cluster: "main".into(), prefix: prefix.into(), client, address, shape: shape.into() }
}

fn snapshot() -> Snapshot {
    let (api, operator) = (caller("apiserver", "10.0.0.1"), caller("10.0.0.9", "10.0.0.9"));
    let member = Member {
        endpoint: "http://127.0.0.1:2379".into(),
        state: "healthy".into(),
        leader: true,
        latency_ms: 1.234,
        version: "3.6.5".into(),
        db_size_bytes: 512 << 20,
        db_quota_bytes: 2 << 30,
        alarms: Vec::new(),
    };
    let held = Collection {
        collection: "/registry/pods".into(),
        state: "ready".into(),
        tier: Some("values".into()),
        why: None,
        keys: 10_000,
        bytes: 22 << 20,
        hits: 90_100,
        misses: 3,
    };
    let calls = Calls {
        cluster: "main".into(),
        class: "heavy_list".into(),
        calls: 187_000,
        would_refuse: 1_770,
        seconds: 374.0,
        ..Calls::default()
    };
    let watches = Calls {
        cluster: "main".into(),
        class: "watch".into(),
        calls: 7,
        open: 12,
        ..Calls::default()
    };
    let listener = Listener {
        name: "local".into(),
        address: "127.0.0.1:23790".into(),
        default: "main".into(),
        routes: vec![Route { prefix: "/registry/events".into(), cluster: "events".into() }],
    };
    let mirror = ClusterMirror {
        behind: 0,
        watchers: 2_000,
        watch_events: 18_700,
        watch_handovers: 3,
        watch_returns: 2,
        events_per_second: 0.0,
        collections: vec![held],
    };
    // Nobody watches there.
    let quiet = ClusterMirror::default();
    let event = Happening {
        at: 0,
        level: "WARN".into(),
        message: "calls are refused".into(),
        details: "protection=queues refused=3".into(),
        times: 2,
    };
    Snapshot {
        at: None,
        calls: vec![calls, watches],
        events: vec![event],
        status: Status {
            version: "0.1.0".into(),
            uptime_seconds: 187,
            listeners: vec![listener],
            clusters: [("main".to_owned(), Cluster { members: vec![member] })].into(),
        },
        protection: Protection {
            mode: "enforce".into(),
            memory: Memory { used: 12 << 20, limit: 1 << 30 },
            protections: vec![Standing {
                protection: "queues".into(),
                mode: "enforce".into(),
                switched: false,
                delayed: 1_200,
                refused: 3,
                would_delay: 0,
                would_refuse: 0,
            }],
            clusters: vec![Gate {
                name: "main".into(),
                space_percent: 25,
                queues: vec![Queue {
                    queue: "queues.reads".into(),
                    running: 4,
                    waiting: 17,
                    limit: 4,
                }],
            }],
        },
        ranking: Ranking {
            seconds: 60,
            total: Load { cost: 1_000.0, requests: 110, bytes: 3 << 20, keys: 1_100 },
            prefixes: vec![
                ranked(prefix("/registry/pods"), 900.0, 10, 2 << 20),
                ranked(prefix("/registry/leases"), 100.0, 100, 1 << 20),
            ],
            clients: vec![
                ranked(api.clone(), 600.0, 105, 1),
                ranked(operator.clone(), 400.0, 5, 2),
            ],
            shapes: vec![
                ranked(demand("list", "/registry/pods", &api), 500.0, 5, 1 << 20),
                ranked(demand("list", "/registry/pods", &operator), 400.0, 5, 1 << 20),
                ranked(demand("update", "/registry/leases", &api), 100.0, 100, 1 << 20),
            ],
            objects: vec![Object {
                cluster: "main".into(),
                name: "/registry/secrets/default/big".into(),
                bytes: 1_200_000,
                requests: 4,
            }],
        },
        mirror: Mirror {
            clusters: [("events".to_owned(), quiet), ("main".to_owned(), mirror)].into(),
        },
    }
}

fn screen() -> Screen {
    let mut screen = Screen::new("http://127.0.0.1:23791".into(), Window::Minute, By::Cost);
    screen.take(Ok(snapshot()));
    screen
}

fn draw(screen: &mut Screen, width: u16, height: u16) -> String {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).expect("a terminal");
    terminal.draw(|frame| screen.draw(frame)).expect("it draws");
    let cells: Vec<_> = terminal.backend().buffer().content().iter().map(|c| c.symbol()).collect();
    let lines = cells.chunks(width.into()).map(|line| line.concat().trim_end().to_owned() + "\n");
    lines.collect()
}

fn press(screen: &mut Screen, codes: impl IntoIterator<Item = KeyCode>) -> Action {
    let keys = codes.into_iter().map(KeyEvent::from);
    keys.map(|key| screen.key(key)).last().expect("a key")
}

#[test]
fn fills_80_by_24() {
    let expected = "\
last minute by cost: cost 1.00k, 110 requests, 3.00 MiB; seawall 0.1.0 up 3m07s
protections enforce; memory 12.0 MiB of 1.00 GiB
most: queues delayed 1.20k, refused 3
queues of main: reads 4/4 and 17 wait; space 25 %
Clusters Requests Prefixes Clients Shapes Objects Memory Watches Protections …
┌Prefixes──────────────────────────────────────────────────────────────────────┐
│PREFIX                COST   SHARE REQUESTS     BYTES    KEYS   ERROR CLUSTER │
│/registry/pods         900  90.0 %       10  2.00 MiB     100         main    │
│/registry/leases       100  10.0 %      100  1.00 MiB   1.00k         main    │
";
    let drawn = draw(&mut screen(), 80, 24);
    assert!(drawn.starts_with(expected), "{drawn}");
    assert!(drawn.ends_with("┘\nTab table  Enter inside  Esc back  ? help  q quit\n"), "{drawn}");
}

#[test]
fn small_terminals_show_what_matters_most() {
    let expected = "\
last minute by cost: cost 1.00k, 110 req
protections enforce; memory 12.0 MiB of
most: queues delayed 1.20k, refused 3
queues of main: reads 4/4 and 17 wait; s
Clusters Requests Prefixes Clients …
┌Prefixes──────────────────────────────┐
│PREFIX                    COST   SHARE│
│/registry/pods             900  90.0 %│
│/registry/leases           100  10.0 %│
";
    let drawn = draw(&mut screen(), 40, 12);
    assert!(drawn.starts_with(expected), "{drawn}");
    // No size is a reason to panic.
    for (width, height) in [(1, 1), (5, 3), (300, 2)] {
        for _ in Tab::ALL {
            let mut screen = screen();
            press(&mut screen, [KeyCode::Char('?')]);
            draw(&mut screen, width, height);
            press(&mut screen, [KeyCode::Tab]);
            draw(&mut screen, width, height);
        }
    }
}

#[test]
fn tab_goes_round_all_tables() {
    let mut screen = screen();
    for (title, content) in [
        ("Clients", "apiserver (10.0.0.1)"),
        ("Shapes", "update"),
        ("Objects", "/registry/secrets/default/big"),
        ("Memory", "90.1k"),
        // As many events as calls below: 100 a second since the start.
        ("Watches", "12       2.00k      100            3         2"),
        ("Protections", "1.20k"),
        ("Events", "calls are refused (2 times)"),
        ("Routes", "local      127.0.0.1:23790       /registry/events and below"),
        ("Clusters", "1.23 ms"),
        // Since the start, as there was no snapshot before: 187,000 in 187 s.
        ("Requests", "1.00k   2.00 ms"),
        ("Prefixes", "/registry/pods"),
    ] {
        press(&mut screen, [KeyCode::Tab]);
        let drawn = draw(&mut screen, 100, 24);
        assert!(drawn.contains(&format!("┌{title}─")) && drawn.contains(content), "{drawn}");
    }
    press(&mut screen, [KeyCode::BackTab, KeyCode::BackTab]);
    let drawn = draw(&mut screen, 100, 24);
    assert!(drawn.contains("512 MiB / 2.00 GiB"), "{drawn}");
    assert!(drawn.contains("healthy"), "{drawn}");
    press(&mut screen, [KeyCode::Tab]);
    let drawn = draw(&mut screen, 100, 24);
    assert!(drawn.contains("WOULD REFUSE") && drawn.contains("1.77k"), "{drawn}");
}

#[test]
fn the_table_that_is_shown_is_named_among_the_others_in_any_terminal() {
    for width in [16, 30, 40, 80, 91] {
        let mut screen = screen();
        for _ in Tab::ALL {
            press(&mut screen, [KeyCode::Tab]);
            let line = screen.tabs(width).to_string();
            assert!(line.contains(screen.shown().tab.title()), "{line:?}");
            assert!(line.chars().count() <= width.into(), "{line:?} in {width}");
            assert_eq!(line.contains('…'), width < 91, "{line:?}");
        }
    }
}

#[test]
fn routes_tell_where_all_keys_go_and_watches_where_most_happens() {
    let mut screen = screen();
    press(&mut screen, [KeyCode::Tab; 5]);
    let drawn = draw(&mut screen, 80, 24);
    assert!(drawn.contains("┌Watches─"), "{drawn}");
    assert!(drawn.find("│main ") < drawn.find("│events "), "{drawn}");
    press(&mut screen, [KeyCode::Tab; 3]);
    let drawn = draw(&mut screen, 80, 24);
    let (routed, others) = ("/registry/events and below", "all others");
    assert!(drawn.find(routed) < drawn.find(others), "{drawn}");
    let cluster = |keys| {
        let line = drawn.lines().find(|line| line.contains(keys));
        line.and_then(|line| line.trim_end_matches('│').split_whitespace().next_back())
    };
    assert_eq!((cluster(routed), cluster(others)), (Some("events"), Some("main")), "{drawn}");
}

#[test]
fn enter_goes_from_a_prefix_to_its_clients_and_their_requests() {
    let mut screen = screen();
    press(&mut screen, [KeyCode::Enter]);
    let clients = draw(&mut screen, 100, 24);
    assert!(clients.contains("┌Clients of /registry/pods─"), "{clients}");
    // Of this prefix alone.
    assert!(clients.contains("apiserver (10.0.0.1)") && clients.contains("500"), "{clients}");
    press(&mut screen, [KeyCode::Down, KeyCode::Enter]);
    let shapes = draw(&mut screen, 100, 24);
    assert!(shapes.contains("┌Shapes of /registry/pods, 10.0.0.9─"), "{shapes}");
    assert_eq!(shapes.matches("list").count(), 1, "{shapes}");
    // There is nothing inside, and back is the way one came.
    press(&mut screen, [KeyCode::Enter, KeyCode::Esc]);
    assert_eq!(draw(&mut screen, 100, 24).matches("10.0.0.9").count(), 1);
    press(&mut screen, [KeyCode::Esc, KeyCode::Esc]);
    assert!(draw(&mut screen, 100, 24).contains("┌Prefixes─"));
}

#[test]
fn keys_sort_and_change_the_window() {
    let mut screen = screen();
    assert_eq!(press(&mut screen, [KeyCode::Char('r')]), Action::Draw);
    let drawn = draw(&mut screen, 80, 24);
    assert!(drawn.starts_with("last minute by requests"), "{drawn}");
    assert!(drawn.find("/registry/leases") < drawn.find("/registry/pods"), "{drawn}");
    press(&mut screen, [KeyCode::Char('b')]);
    let drawn = draw(&mut screen, 80, 24);
    assert!(drawn.find("/registry/pods") < drawn.find("/registry/leases"), "{drawn}");
    assert_eq!(press(&mut screen, [KeyCode::Char('w')]), Action::Ask(Window::Hour));
    assert_eq!(press(&mut screen, [KeyCode::Char('w')]), Action::Ask(Window::Minute));
}

#[test]
fn a_protection_is_switched_by_a_letter_after_enter() {
    let mut screen = screen();
    press(&mut screen, [KeyCode::BackTab; 5].into_iter().chain([KeyCode::Enter]));
    let drawn = draw(&mut screen, 80, 24);
    let asked = "queues:  o off  b observe  e enforce  d configured  any other key: as it is\n";
    assert!(drawn.ends_with(asked), "{drawn}");
    assert_eq!(press(&mut screen, [KeyCode::Esc]), Action::Draw);
    assert!(!draw(&mut screen, 80, 24).contains("o off"));
    let switch = Switch { protection: "queues".into(), mode: "observe" };
    let action = press(&mut screen, [KeyCode::Enter, KeyCode::Char('b')]);
    assert_eq!(action, Action::Switch(switch.clone()));
    screen.switched(&switch, Err(anyhow::anyhow!("this is not the admin token")));
    assert!(draw(&mut screen, 80, 24).ends_with("this is not the admin token\n"));
    screen.switched(&switch, Ok(()));
    assert!(draw(&mut screen, 80, 24).ends_with("queues was switched: observe\n"));
}

#[test]
fn help_comes_and_goes_and_q_quits() {
    let mut screen = screen();
    press(&mut screen, [KeyCode::Char('?')]);
    let drawn = draw(&mut screen, 80, 24);
    assert!(drawn.contains("Any key closes this."), "{drawn}");
    assert_eq!(press(&mut screen, [KeyCode::Char('q')]), Action::Draw);
    assert!(!draw(&mut screen, 80, 24).contains("Any key closes this."));
    assert_eq!(press(&mut screen, [KeyCode::Char('q')]), Action::Quit);
    let interrupt = KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL);
    assert_eq!(screen.key(interrupt), Action::Quit);
}

#[test]
fn a_silent_admin_port_is_named_and_the_last_answer_stays() {
    let mut screen = screen();
    screen.take(Err(anyhow::anyhow!("no route").context("the admin port cannot be reached")));
    let drawn = draw(&mut screen, 80, 24);
    assert!(
        drawn.contains("the admin port cannot be reached; trying again\nno route\n"),
        "{drawn}"
    );
    assert!(drawn.contains("/registry/pods"), "{drawn}");
    screen.take(Ok(snapshot()));
    assert!(!draw(&mut screen, 80, 24).contains("no route"));
}

#[test]
fn what_is_new_since_the_last_answer_is_told_a_second() {
    let mut screen = screen();
    let (before, now) = (Instant::now(), Instant::now() + Duration::from_secs(2));
    screen.take(Ok(Snapshot { at: Some(before), ..snapshot() }));
    let mut later = Snapshot { at: Some(now), ..snapshot() };
    later.calls[0].calls += 50;
    later.calls[0].seconds += 1.0;
    later.mirror.clusters.entry("main".to_owned()).or_default().watch_events += 20;
    later.compare(screen.snapshot.as_ref());
    let late = later.calls[0].late;
    assert!((24.9..25.1).contains(&late.per_second), "{late:?}");
    assert!((19.9..20.1).contains(&late.mean_ms), "{late:?}");
    let events = later.mirror.clusters["main"].events_per_second;
    assert!((9.9..10.1).contains(&events), "{events}");
}
