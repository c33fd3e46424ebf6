use super::{waiting::AGING, *};
use futures_util::{FutureExt, future::BoxFuture};
use tokio::time::advance;

type TestQueue = Arc<Queue>;

fn queue(concurrency: u32, length_max: usize) -> TestQueue {
    let wait_max = Duration::from_secs(30);
    Arc::new(Queue::new(QueueConfig { concurrency, length_max, wait_max }))
}

fn ticket(flow: &'static str, cost: f64) -> Ticket {
    Ticket { flow: Flow::of(flow), priority: Priority::Normal, weight: 1, cost, deadline: None }
}

/// A call that waits, begun.
fn waiter(queue: &TestQueue, ticket: Ticket) -> BoxFuture<'static, Result<Slot, Turned>> {
    let queue = Arc::clone(queue);
    let mut entering = async move { queue.enter(ticket).await }.boxed();
    assert!((&mut entering).now_or_never().is_none(), "there was room");
    entering
}

/// Lets one after the other pass and tells the order of their names.
async fn order(
    slot: Slot,
    mut waiters: Vec<(&'static str, BoxFuture<'static, Result<Slot, Turned>>)>,
) -> Vec<&'static str> {
    let mut names = Vec::new();
    let mut slot = Some(slot);
    while !waiters.is_empty() {
        drop(slot.take());
        let mut passed = None;
        for (index, (name, waiter)) in waiters.iter_mut().enumerate() {
            if let Some(result) = waiter.now_or_never() {
                names.push(*name);
                slot = Some(result.expect("a slot"));
                passed = Some(index);
                break;
            }
        }
        drop(waiters.remove(passed.expect("somebody passes")));
    }
    names
}

#[tokio::test(start_paused = true)]
async fn a_flow_that_asks_for_much_delays_only_itself() {
    let queue = queue(1, 100);
    let slot = queue.enter(ticket("first", 1.0)).await.expect("room");
    let mut waiters: Vec<_> =
        (0..4).map(|_| ("greedy", waiter(&queue, ticket("greedy", 10.0)))).collect();
    waiters.push(("modest", waiter(&queue, ticket("modest", 1.0))));
    waiters.push(("modest", waiter(&queue, ticket("modest", 1.0))));
    let order = order(slot, waiters).await;
    assert_eq!(order, ["greedy", "modest", "modest", "greedy", "greedy", "greedy"]);
}

#[tokio::test(start_paused = true)]
async fn weights_are_shares() {
    let queue = queue(1, 100);
    let slot = queue.enter(ticket("first", 1.0)).await.expect("room");
    let heavy = || Ticket { weight: 3, ..ticket("heavy", 3.0) };
    let mut waiters = Vec::new();
    for _ in 0..6 {
        waiters.push(("heavy", waiter(&queue, heavy())));
        waiters.push(("light", waiter(&queue, ticket("light", 3.0))));
    }
    let order = order(slot, waiters).await;
    let heavy = order[..8].iter().filter(|name| **name == "heavy").count();
    assert_eq!(heavy, 6, "{order:?}");
}

#[tokio::test(start_paused = true)]
async fn priority_goes_first_and_the_lowest_gets_its_share() {
    let queue = queue(1, 100);
    let slot = queue.enter(ticket("first", 1.0)).await.expect("room");
    let of = |priority| Ticket { priority, ..ticket("flow", 1.0) };
    let mut waiters = vec![("low", waiter(&queue, of(Priority::Low)))];
    for _ in 0..10 {
        waiters.push(("high", waiter(&queue, of(Priority::High))));
    }
    let order = order(slot, waiters).await;
    let low = order.iter().position(|name| *name == "low").expect("it passes");
    assert!((1..AGING as usize).contains(&low), "{order:?}");
}

#[tokio::test(start_paused = true)]
async fn a_full_queue_turns_calls_away_until_somebody_leaves() {
    let queue = queue(1, 1);
    let _slot = queue.enter(ticket("a", 1.0)).await.expect("room");
    let waiting = waiter(&queue, ticket("a", 1.0));
    for flow in ["a", "b"] {
        let turned = queue.enter(ticket(flow, 1.0)).await.expect_err("full");
        assert_eq!(turned, Turned::Full { waiting: 1 });
    }
    drop(waiting);
    drop(waiter(&queue, ticket("b", 1.0)));
}

/// One client with two connections had 20,000 puts wait: writes of kube-apiserver were refused with
/// `20000 calls wait already`, heartbeats among them, and nodes became NotReady.
#[tokio::test(start_paused = true)]
async fn a_flow_that_fills_the_queue_makes_room_for_the_others() {
    let queue = queue(1, 10);
    let slot = queue.enter(ticket("runaway", 1.0)).await.expect("room");
    let mut runaway: Vec<_> = (0..10).map(|_| waiter(&queue, ticket("runaway", 1.0))).collect();
    let heartbeat = waiter(&queue, ticket("apiserver", 1.0));
    let displaced = runaway.pop().expect("the newest").now_or_never().expect("it is told");
    assert_eq!(displaced.expect_err("its place is taken"), Turned::Full { waiting: 10 });
    let turned = queue.enter(ticket("runaway", 1.0)).await.expect_err("it has its share");
    assert_eq!(turned, Turned::Full { waiting: 10 });
    assert!(runaway.iter_mut().all(|waiter| waiter.now_or_never().is_none()));
    drop(runaway.remove(0));
    drop(slot);
    let _slot = heartbeat.now_or_never().expect("its turn").expect("a slot");
    assert_eq!(queue.figures(), (1, 8, 1));
}

#[tokio::test(start_paused = true)]
async fn flows_share_the_places_and_do_not_swap_them() {
    let queue = queue(1, 10);
    let _slot = queue.enter(ticket("a", 1.0)).await.expect("room");
    let mut a: Vec<_> = (0..10).map(|_| waiter(&queue, ticket("a", 1.0))).collect();
    let mut b: Vec<_> = (0..5).map(|_| waiter(&queue, ticket("b", 1.0))).collect();
    for flow in ["a", "b"] {
        queue.enter(ticket(flow, 1.0)).await.expect_err("it has its share");
    }
    let told = |waiters: &mut Vec<BoxFuture<'static, _>>| {
        waiters.iter_mut().filter_map(|waiter| waiter.now_or_never()).count()
    };
    assert_eq!((told(&mut a), told(&mut b)), (5, 0));
}

#[tokio::test(start_paused = true)]
async fn weights_are_shares_of_a_full_queue() {
    let queue = queue(1, 10);
    let _slot = queue.enter(ticket("lists", 1.0)).await.expect("room");
    let _lists: Vec<_> = (0..10).map(|_| waiter(&queue, ticket("lists", 1.0))).collect();
    let page = || Ticket { weight: 4, ..ticket("pages", 1.0) };
    let _pages: Vec<_> = (0..8).map(|_| waiter(&queue, page())).collect();
    queue.enter(page()).await.expect_err("it has four times the share");
}

#[tokio::test(start_paused = true)]
async fn a_lower_priority_gives_way_first_and_takes_nobodys_place() {
    let queue = queue(1, 3);
    let _slot = queue.enter(ticket("a", 1.0)).await.expect("room");
    let of = |flow, priority| Ticket { priority, ..ticket(flow, 1.0) };
    let mut low = waiter(&queue, of("quiet", Priority::Low));
    let mut normal: Vec<_> = (0..2).map(|_| waiter(&queue, ticket("a", 1.0))).collect();
    normal.push(waiter(&queue, ticket("a", 1.0)));
    let turned = (&mut low).now_or_never().expect("it is told").expect_err("displaced");
    assert_eq!(turned, Turned::Full { waiting: 3 });
    queue.enter(of("quiet", Priority::Low)).await.expect_err("nobody gives way to it");
    drop(waiter(&queue, of("quiet", Priority::High)));
    assert!((&mut normal[2]).now_or_never().is_some_and(|told| told.is_err()));
}

/// A call that cannot make its deadline anyway takes nobody's place.
#[tokio::test(start_paused = true)]
async fn who_is_too_late_displaces_nobody() {
    let queue = queue(1, 2);
    let slot = queue.enter(ticket("a", 1.0)).await.expect("room");
    advance(Duration::from_secs(10)).await;
    drop(slot);
    let _slot = queue.enter(ticket("a", 1.0)).await.expect("room");
    let mut waiting: Vec<_> = (0..2).map(|_| waiter(&queue, ticket("a", 1.0))).collect();
    let deadline = Some(Instant::now() + Duration::from_millis(500));
    let turned = queue.enter(Ticket { deadline, ..ticket("b", 1.0) }).await;
    assert!(matches!(turned, Err(Turned::Late { .. })), "{turned:?}");
    assert!(waiting.iter_mut().all(|waiter| waiter.now_or_never().is_none()));
}

/// What flows have had that do not come again is not remembered for ever.
#[tokio::test(start_paused = true)]
async fn flows_that_have_passed_are_forgotten() {
    let queue = queue(1, 10);
    let mut slot = queue.enter(ticket("first", 1.0)).await.expect("room");
    for number in 0..1_000 {
        let flow = Flow::of(number);
        let next = waiter(&queue, Ticket { flow, ..ticket("", 1_000.0) });
        drop(slot);
        slot = next.await.expect("its turn");
    }
    let flows = queue.state.lock().turns.waiting.flows();
    assert!(flows < 100, "{flows}");
}

#[tokio::test(start_paused = true)]
async fn who_leaves_takes_no_turn() {
    let queue = queue(1, 10);
    let slot = queue.enter(ticket("a", 1.0)).await.expect("room");
    drop(waiter(&queue, ticket("b", 1.0)));
    let next = waiter(&queue, ticket("c", 1.0));
    drop(slot);
    let slot = next.await.expect("its turn");
    assert_eq!(queue.figures(), (1, 0, 1));
    // A turn that was given and not taken goes on to the next.
    let given = waiter(&queue, ticket("d", 1.0));
    let after = waiter(&queue, ticket("e", 1.0));
    drop(slot);
    drop(given);
    after.await.expect("its turn");
    assert_eq!(queue.figures(), (0, 0, 1));
}

#[tokio::test(start_paused = true)]
async fn a_call_that_cannot_make_its_deadline_is_turned_away_at_once() {
    let queue = queue(1, 10);
    let slot = queue.enter(ticket("a", 1.0)).await.expect("room");
    advance(Duration::from_secs(10)).await;
    drop(slot);
    let _slot = queue.enter(ticket("a", 1.0)).await.expect("room");
    let soon = Instant::now() + Duration::from_millis(500);
    let hurried = Ticket { deadline: Some(soon), ..ticket("b", 1.0) };
    let turned = queue.enter(hurried.clone()).now_or_never().expect("no wait");
    assert!(matches!(turned, Err(Turned::Late { .. })), "{turned:?}");
    let patient = Ticket { deadline: Some(soon + Duration::from_secs(20)), ..hurried };
    drop(waiter(&queue, patient));
}

/// While lists of low priority waited by the dozen, a page that somebody waited for was refused
/// because `its turn would come in 26000ms, after its deadline`: it would have been the next.
#[tokio::test(start_paused = true)]
async fn only_what_is_ahead_of_a_call_makes_it_late() {
    let queue = queue(1, 100);
    let slot = queue.enter(ticket("first", 1.0)).await.expect("room");
    advance(Duration::from_secs(10)).await;
    drop(slot);
    let _slot = queue.enter(ticket("first", 1.0)).await.expect("room");
    // A turn takes one second.
    let low = |number: usize| Flow::of(("low", number));
    let _low: Vec<_> = (0..20)
        .map(|number| {
            let priority = Priority::Low;
            waiter(&queue, Ticket { flow: low(number), priority, ..ticket("", 1.0) })
        })
        .collect();
    let waits = |seconds: u64, ticket: Ticket| {
        let deadline = Some(Instant::now() + Duration::from_millis(1_000 * seconds + 500));
        let entered = queue.enter(Ticket { deadline, ..ticket }).now_or_never();
        entered.map(|entered| entered.expect_err("there is no turn"))
    };
    assert_eq!(waits(1, ticket("page", 1.0)), None, "it is the next");
    // Behind those of its own flow, and as many of each other one.
    let _a: Vec<_> = (0..2).map(|_| waiter(&queue, ticket("a", 1.0))).collect();
    let _b: Vec<_> = (0..9).map(|_| waiter(&queue, ticket("b", 1.0))).collect();
    let wait = Duration::from_secs(6);
    assert_eq!(waits(5, ticket("a", 1.0)), Some(Turned::Late { wait }));
    assert_eq!(waits(6, ticket("a", 1.0)), None);
    assert_eq!(waits(3, ticket("c", 1.0)), None, "it is in the first round");
    // With four times the weight, four of its calls are in the first round.
    let page = || Ticket { weight: 4, ..ticket("pages", 1.0) };
    let _pages: Vec<_> = (0..3).map(|_| waiter(&queue, page())).collect();
    assert_eq!(waits(6, page()), None);
    // The low ones are behind all of these, and each other.
    let late = waits(30, Ticket { flow: low(0), priority: Priority::Low, ..ticket("", 1.0) });
    let wait = Duration::from_secs(14 + 21);
    assert_eq!(late, Some(Turned::Late { wait }));
}

#[tokio::test(start_paused = true)]
async fn the_lowest_that_waits_is_not_late_for_those_it_takes_turns_with() {
    let queue = queue(1, 100);
    let slot = queue.enter(ticket("first", 1.0)).await.expect("room");
    advance(Duration::from_secs(10)).await;
    drop(slot);
    let _slot = queue.enter(ticket("first", 1.0)).await.expect("room");
    let _many: Vec<_> = (0..60).map(|_| waiter(&queue, ticket("many", 1.0))).collect();
    let deadline = Some(Instant::now() + Duration::from_secs(AGING + 1));
    drop(waiter(&queue, Ticket { deadline, priority: Priority::Low, ..ticket("low", 1.0) }));
}

#[tokio::test(start_paused = true)]
async fn a_wait_ends_at_the_deadline_or_the_bound() {
    let queue = queue(1, 10);
    let _slot = queue.enter(ticket("a", 1.0)).await.expect("room");
    let deadline = Some(Instant::now() + Duration::from_secs(2));
    let turned = queue.enter(Ticket { deadline, ..ticket("b", 1.0) }).await;
    assert_eq!(turned.expect_err("no turn"), Turned::Expired);
    let waited = Duration::from_secs(30);
    let turned = queue.enter(ticket("b", 1.0)).await.expect_err("no turn");
    assert_eq!(turned, Turned::Waited { waited });
    assert_eq!(queue.figures(), (1, 0, 1));
}

#[tokio::test(start_paused = true)]
async fn a_raised_limit_lets_those_who_wait_pass() {
    let queue = queue(4, 10);
    queue.set_limit(1);
    let _slot = queue.enter(ticket("a", 1.0)).await.expect("room");
    let (b, c) = (waiter(&queue, ticket("b", 1.0)), waiter(&queue, ticket("c", 1.0)));
    queue.set_limit(3);
    let _slots = (b.await.expect("a turn"), c.await.expect("a turn"));
    assert_eq!(queue.figures(), (3, 0, 3));
}

/// Two leave at once, and the one that waits has its turn, but not woken yet: who comes then must
/// not wait for it.
#[tokio::test(start_paused = true)]
async fn who_comes_while_another_wakes_takes_the_room_that_is_left() {
    let queue = queue(2, 10);
    let first = queue.enter(ticket("a", 1.0)).await.expect("room");
    let second = queue.enter(ticket("a", 1.0)).await.expect("room");
    let wakes = waiter(&queue, ticket("b", 1.0));
    drop((first, second));
    let entered = queue.enter(ticket("c", 1.0)).now_or_never();
    let _slots = (entered.expect("there is room").expect("a turn"), wakes.await.expect("a turn"));
    assert_eq!(queue.figures(), (2, 0, 2));
}

/// A flow whose callers give up is not behind those who did not.
#[tokio::test(start_paused = true)]
async fn who_leaves_costs_its_flow_nothing() {
    let queue = queue(1, 100);
    let slot = queue.enter(ticket("first", 1.0)).await.expect("room");
    for _ in 0..10 {
        drop(waiter(&queue, ticket("impatient", 1.0)));
    }
    let mut waiters: Vec<_> =
        (0..3).map(|_| ("patient", waiter(&queue, ticket("patient", 1.0)))).collect();
    waiters.push(("impatient", waiter(&queue, ticket("impatient", 1.0))));
    let order = order(slot, waiters).await;
    assert_eq!(order, ["patient", "impatient", "patient", "patient"]);
}

#[tokio::test(start_paused = true)]
async fn who_leaves_as_its_turn_comes_costs_its_flow_nothing() {
    let queue = queue(1, 100);
    let slot = queue.enter(ticket("first", 1.0)).await.expect("room");
    let unheard = waiter(&queue, ticket("impatient", 1.0));
    drop(slot);
    assert_eq!(queue.figures().0, 1, "it has its turn");
    drop(unheard);
    let slot = queue.enter(ticket("first", 1.0)).await.expect("room");
    let flows = ["patient", "patient", "impatient"];
    let waiters = flows.map(|flow| (flow, waiter(&queue, ticket(flow, 1.0))));
    assert_eq!(order(slot, waiters.into()).await, ["patient", "impatient", "patient"]);
}

/// One whose place was taken, and who leaves without having heard of it, gets its share back once: its
/// flow went ahead of others for that.
#[tokio::test(start_paused = true)]
async fn who_leaves_after_its_place_was_taken_gains_nothing() {
    let queue = queue(1, 2);
    let slot = queue.enter(ticket("first", 1.0)).await.expect("room");
    let mut waiters = vec![("long", waiter(&queue, ticket("long", 1.0)))];
    let displaced = waiter(&queue, ticket("long", 1.0));
    waiters.push(("short", waiter(&queue, ticket("short", 1.0))));
    drop(displaced);
    let wait_max = Duration::from_secs(30);
    queue.reconfigure(QueueConfig { concurrency: 1, length_max: 10, wait_max });
    for flow in ["short", "long"] {
        waiters.push((flow, waiter(&queue, ticket(flow, 1.0))));
    }
    assert_eq!(order(slot, waiters).await, ["long", "short", "short", "long"]);
}
