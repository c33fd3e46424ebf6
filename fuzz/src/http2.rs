//! A client's connection, with frames that a client should not send.

use seawall::{
    app::App,
    config::{self, Flags},
    handover::Inherited,
};
use std::{
    panic,
    path::Path,
    sync::{
        Arc, LazyLock, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, duplex, split},
    runtime::{Builder, Runtime},
    task::yield_now,
    time::timeout,
};

/// Nobody is behind it: calls come as far as to their member, and wait there.
const CONFIG: &str = "
listeners: [{name: main, address: '127.0.0.1:0', default: main}]
clusters: {main: {endpoints: ['http://127.0.0.1:1']}}
admin: {address: '127.0.0.1:0'}
workers: 1
";

/// What every client of HTTP/2 says first: its preface and empty settings.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";

/// Far longer than it takes on any machine to notice that a client has gone.
const PATIENCE: Duration = Duration::from_secs(60);

/// Tasks that come and go beside those of clients: connections to etcd that are tried.
const OTHERS: usize = 16;

/// Tasks' panics, which end nothing but the tasks.
static PANICS: AtomicUsize = AtomicUsize::new(0);

/// A running Seawall, which serves all connections one after the other.
struct Served {
    runtime: Runtime,
    app: App,
    /// Tasks there are without clients.
    tasks: usize,
}

static SERVED: LazyLock<Mutex<Served>> = LazyLock::new(|| {
    let before = panic::take_hook();
    panic::set_hook(Box::new(move |info| {
        PANICS.fetch_add(1, Relaxed);
        before(info);
    }));
    let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
    let loaded = config::build(Some((Path::new("seawall.yaml"), CONFIG)), &Flags::default());
    let settings = loaded.expect("a configuration").settings;
    let app = runtime.block_on(App::start(settings, &mut Inherited::default()));
    let tasks = runtime.metrics().num_alive_tasks();
    Mutex::new(Served { app: app.expect("it starts"), runtime, tasks })
});

/// Whatever a client says after its preface, the connection ends with it, and so does all that came
/// of it.
pub fn http2(bytes: &[u8]) {
    let served = SERVED.lock().unwrap_or_else(PoisonError::into_inner);
    let said = [PREFACE, &frames(bytes)].concat();
    let panics = PANICS.load(Relaxed);
    let listener = Arc::clone(served.app.listener("main").expect("it listens"));
    let connection = async {
        let (near, far) = duplex(1 << 16);
        let serving = tokio::spawn(async move {
            // What is wrong with a connection is its client's to know.
            let _ = listener.serve(far, ([127, 0, 0, 1], 1).into()).await;
        });
        let (mut hears, mut says) = split(near);
        let saying = async {
            // It may have had enough before it has heard all.
            let _ = says.write_all(&said).await;
            let _ = says.shutdown().await;
        };
        let mut heard = Vec::new();
        let (_, _, served) = tokio::join!(saying, hears.read_to_end(&mut heard), serving);
        served
    };
    served.runtime.block_on(async {
        let ended = timeout(PATIENCE, connection).await.expect("it ends with its client");
        ended.expect("it does not panic");
        let at_rest = async {
            while served.runtime.metrics().num_alive_tasks() > served.tasks + OTHERS {
                yield_now().await;
            }
        };
        timeout(PATIENCE, at_rest).await.expect("its calls end with it");
    });
    assert_eq!(PANICS.load(Relaxed), panics, "a call has panicked");
}

/// The bytes as they are after an odd one; else as frames, each of a kind, flags, a stream, a length
/// and so many bytes, so that a change of a few bytes leaves the frames behind it whole.
fn frames(bytes: &[u8]) -> Vec<u8> {
    let Some((form, mut rest)) = bytes.split_first() else { return Vec::new() };
    if form % 2 == 1 {
        return rest.to_vec();
    }
    let mut frames = Vec::new();
    while let [kind, flags, stream, length, payload @ ..] = rest {
        let (payload, after) = payload.split_at(payload.len().min(usize::from(*length)));
        frames.extend([0, 0, payload.len() as u8, *kind, *flags, 0, 0, 0, *stream]);
        frames.extend(payload);
        rest = after;
    }
    frames
}
