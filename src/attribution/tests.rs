use super::*;
use prometheus_client::encoding::text::encode;
use std::{
    io::{self, Write},
    net::{IpAddr, Ipv4Addr},
};
use tokio::time::advance;

const CONFIG: Config = Config {
    entries: 100,
    slow: Duration::from_secs(1),
    heavy_bytes: 1_000_000,
    log_per_minute: 2,
    trace: None,
};

fn client(number: u8) -> Arc<Client> {
    let address = IpAddr::V4(Ipv4Addr::new(10, 0, 0, number));
    Arc::new(Client { name: "apiserver".into(), address })
}

/// What the calls of a test have in common.
struct Scene {
    attribution: Arc<Attribution>,
    registry: Registry,
    cluster: Arc<str>,
    client: Arc<Client>,
}

impl Scene {
    fn new(config: Config) -> Self {
        let mut registry = Registry::default();
        let attribution = Attribution::new(config, 2, &mut registry);
        Self { attribution, registry, cluster: "main".into(), client: client(1) }
    }

    fn observation<'a>(&'a self, place: &'a Place, cost: f64) -> Observation<'a> {
        Observation {
            cluster: &self.cluster,
            client: &self.client,
            place,
            range: None,
            value_bytes: 0,
            limit: 0,
            shape: Shape::List,
            class: Class::HeavyList,
            method: "Range",
            code: tonic::Code::Ok,
            cost,
            keys: 3,
            bytes: 100,
            took: Duration::from_millis(5),
            waited: Duration::ZERO,
            stream: false,
        }
    }

    fn observe(&self, worker: usize, collection: &'static str, cost: f64) {
        self.attribution.observe(worker, &self.observation(&place(collection), cost));
    }

    /// Names and costs of the prefixes.
    fn prefixes(&self, window: Window) -> Vec<(String, f64)> {
        let ranking = self.attribution.ranking(window);
        ranking.prefixes.into_iter().map(|p| (p.name.prefix, p.load.cost)).collect()
    }
}

fn place(collection: &'static str) -> Place {
    Place { collection: Bytes::from_static(collection.as_bytes()), namespace: None }
}

#[tokio::test(start_paused = true)]
async fn all_workers_count_towards_one_list() {
    let scene = Scene::new(CONFIG);
    scene.observe(0, "/registry/pods", 10.0);
    scene.observe(2, "/registry/pods", 20.0);
    scene.observe(1, "/registry/leases", 10.0);
    let minute = scene.attribution.top().minute;
    assert_eq!(minute.total, Load { cost: 40.0, requests: 3, bytes: 300, keys: 9 });
    let pods = &minute.prefixes[0];
    assert_eq!((&*pods.name.prefix, &*pods.name.cluster), ("/registry/pods", "main"));
    assert_eq!(pods.load, Load { cost: 30.0, requests: 2, bytes: 200, keys: 6 });
    assert_eq!((pods.share, pods.error), (0.75, 0.0));
    assert_eq!(minute.clients[0].name.to_string(), "apiserver (10.0.0.1)");
    assert_eq!(minute.clients[0].share, 1.0);
    let shape = &minute.shapes[1].name;
    assert_eq!((&*shape.prefix, &*shape.shape), ("/registry/leases", "list"));
}

#[tokio::test(start_paused = true)]
async fn clients_with_one_certificate_are_told_apart_by_address() {
    let mut scene = Scene::new(CONFIG);
    scene.observe(0, "/registry/pods", 1.0);
    scene.client = client(2);
    scene.observe(0, "/registry/pods", 1.0);
    let minute = scene.attribution.ranking(Window::Minute);
    assert_eq!((minute.prefixes.len(), minute.clients.len(), minute.shapes.len()), (1, 2, 2));
}

#[tokio::test(start_paused = true)]
async fn a_minute_forgets_what_an_hour_remembers() {
    let scene = Scene::new(CONFIG);
    scene.observe(0, "/early", 1.0);
    advance(Duration::from_secs(50)).await;
    scene.observe(0, "/late", 2.0);
    let both = [("/late".to_owned(), 2.0), ("/early".to_owned(), 1.0)];
    assert_eq!(scene.prefixes(Window::Minute), both);
    // Only the other worker has calls by now: the first must be forgotten all the same.
    advance(Duration::from_secs(10)).await;
    scene.observe(1, "/later", 3.0);
    assert_eq!(scene.prefixes(Window::Minute), [("/later".to_owned(), 3.0), both[0].clone()]);
    assert_eq!(scene.prefixes(Window::Hour).len(), 3);
    advance(Window::Hour.length()).await;
    assert_eq!(scene.prefixes(Window::Hour), []);
    scene.observe(0, "/early", 4.0);
    assert_eq!(scene.prefixes(Window::Minute), [("/early".to_owned(), 4.0)]);
    assert_eq!(scene.prefixes(Window::Hour), [("/early".to_owned(), 4.0)]);
}

#[tokio::test(start_paused = true)]
async fn what_is_too_much_to_remember_is_an_error_bound() {
    let scene = Scene::new(Config { entries: 1, ..CONFIG });
    scene.observe(0, "/a", 2.0);
    scene.observe(0, "/b", 3.0);
    let minute = scene.attribution.ranking(Window::Minute);
    assert_eq!(minute.prefixes.len(), 1);
    let b = &minute.prefixes[0];
    assert_eq!((&*b.name.prefix, b.load.cost, b.error), ("/b", 3.0, 2.0));
    assert_eq!(minute.total.cost, 5.0);
    scene.attribution.reconfigure(CONFIG);
    scene.observe(0, "/c", 4.0);
    let found = scene.prefixes(Window::Minute);
    assert_eq!(found, [("/c".to_owned(), 4.0), ("/b".to_owned(), 3.0)]);
}

#[tokio::test(start_paused = true)]
async fn the_largest_objects_are_found_in_little_memory() {
    let scene = Scene::new(Config { entries: 2, ..CONFIG });
    let see = |worker, key: &'static str, size| {
        scene.attribution.object(worker, &scene.cluster, &Bytes::from_static(key.as_bytes()), size);
    };
    for (worker, key, size) in
        [(0, "/a", 5), (1, "/b", 9), (0, "/c", 7), (0, "/d", 1), (1, "/a", 6)]
    {
        see(worker, key, size);
    }
    let objects = scene.attribution.ranking(Window::Minute).objects;
    let found: Vec<_> = objects.iter().map(|o| (&*o.name, o.bytes, o.requests)).collect();
    assert_eq!(found, [("/b", 9, 1), ("/c", 7, 1)]);
}

#[tokio::test(start_paused = true)]
async fn a_long_key_holds_little_memory() {
    let scene = Scene::new(CONFIG);
    let key = Bytes::from(vec![b'k'; 1_000_000]);
    scene.attribution.object(0, &scene.cluster, &key, 1);
    let place = Place { collection: key, namespace: None };
    scene.attribution.observe(0, &scene.observation(&place, 1.0));
    let minute = scene.attribution.ranking(Window::Minute);
    assert_eq!((minute.objects[0].name.len(), minute.prefixes[0].name.prefix.len()), (512, 512));
}

#[tokio::test(start_paused = true)]
async fn the_top_of_the_minute_is_in_the_metrics() {
    let scene = Scene::new(CONFIG);
    let text = || {
        let mut text = String::new();
        encode(&mut text, &scene.registry).expect("a string takes all");
        text
    };
    assert!(!text().contains("top_"), "a family without samples:\n{}", text());
    for number in 0..20_u8 {
        let place = Place { collection: format!("/p{number}").into(), namespace: None };
        scene.attribution.observe(0, &scene.observation(&place, f64::from(number)));
    }
    scene.attribution.object(0, &scene.cluster, &Bytes::from_static(b"/p/a"), 77);
    let text = text();
    for line in [
        r#"top_cost{kind="prefix",cluster="main",name="/p19"} 19"#,
        r#"top_requests{kind="client",cluster="",name="apiserver (10.0.0.1)"} 20"#,
        r#"top_bytes{kind="prefix",cluster="main",name="/p10"} 100"#,
        r#"top_object_bytes{kind="object",cluster="main",name="/p/a"} 77"#,
    ] {
        assert!(text.contains(line), "no {line} in\n{text}");
    }
    assert_eq!(text.matches(r#"top_cost{kind="prefix""#).count(), 10, "{text}");
}

/// What is logged on this thread.
#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl Lines {
    fn capture() -> (Self, tracing::subscriber::DefaultGuard) {
        let lines = Self::default();
        let writer = lines.clone();
        let subscriber = tracing_subscriber::fmt().json().flatten_event(true);
        let subscriber = subscriber.with_writer(move || writer.clone()).finish();
        (lines, tracing::subscriber::set_default(subscriber))
    }

    fn take(&self) -> Vec<serde_json::Value> {
        let bytes = std::mem::take(&mut *self.0.lock());
        let text = String::from_utf8(bytes).expect("UTF-8");
        text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
    }
}

impl Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[tokio::test(start_paused = true)]
async fn slow_and_heavy_requests_are_logged() {
    let scene = Scene::new(CONFIG);
    let (lines, _guard) = Lines::capture();
    let place = Place { namespace: Some("ns".into()), ..place("/registry/pods") };
    let usual = || scene.observation(&place, 7.0);
    let long = Duration::from_millis(1_500);
    scene.attribution.observe(0, &usual());
    scene.attribution.observe(0, &Observation { took: long, stream: true, ..usual() });
    assert_eq!(lines.take(), Vec::<serde_json::Value>::new());

    scene.attribution.observe(0, &Observation { took: long, ..usual() });
    scene.attribution.observe(0, &Observation { bytes: 1_000_001, stream: true, ..usual() });
    let logged = lines.take();
    assert_eq!(logged.len(), 2);
    for (field, value) in [
        ("level", "WARN".into()),
        ("target", "seawall::slow".into()),
        ("message", "slow request".into()),
        ("method", "Range".into()),
        ("code", "Ok".into()),
        ("class", "heavy_list".into()),
        ("shape", "list".into()),
        ("cluster", "main".into()),
        ("client", "apiserver".into()),
        ("address", "10.0.0.1".into()),
        ("prefix", "/registry/pods".into()),
        ("namespace", "ns".into()),
        ("cost", 7.0.into()),
        ("keys", 3.into()),
        ("bytes", 100.into()),
        ("took_ms", 1_500.0.into()),
        ("waited_ms", serde_json::Value::from(0.0)),
    ] {
        assert_eq!(logged[0][field], value, "{field}");
    }
    assert_eq!(
        (&logged[1]["message"], &logged[1]["level"]),
        (&"heavy request".into(), &"INFO".into())
    );
}

#[tokio::test(start_paused = true)]
async fn the_log_is_bounded_and_tells_what_it_left_out() {
    let scene = Scene::new(CONFIG);
    let (lines, _guard) = Lines::capture();
    let place = place("/registry/pods");
    let slow = || Observation { took: Duration::from_secs(2), ..scene.observation(&place, 1.0) };
    for _ in 0..5 {
        scene.attribution.observe(0, &slow());
    }
    assert_eq!(lines.take().len(), 2);
    advance(Duration::from_secs(60)).await;
    scene.attribution.observe(0, &scene.observation(&place, 1.0));
    let logged = lines.take();
    assert_eq!((logged.len(), &logged[0]["suppressed"]), (1, &3.into()));
    scene.attribution.observe(0, &slow());
    assert_eq!(lines.take().len(), 1);
    let mut text = String::new();
    encode(&mut text, &scene.registry).expect("a string takes all");
    assert!(text.contains("slow_log_suppressed_total 3"), "{text}");
}
