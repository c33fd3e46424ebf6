//! The terminal: asks, draws, reads keys, and leaves everything as it was.

use super::{
    By, Window,
    screen::{Action, Screen},
    source::{Snapshot, Source},
};
use anyhow::Context;
use crossterm::event::{Event, EventStream};
use futures_util::StreamExt;
use ratatui::DefaultTerminal;
use std::{io, time::Duration};
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::{mpsc, watch},
    time::timeout,
};
use tokio_util::task::AbortOnDropHandle;

/// `seawall top` in a terminal.
#[derive(Debug)]
pub(super) struct Session {
    source: Source,
    interval: Duration,
    window: Window,
    screen: Screen,
}

impl Session {
    pub(super) fn new(source: Source, interval: Duration, window: Window, by: By) -> Self {
        let screen = Screen::new(source.url(), window, by);
        Self { source, interval, window, screen }
    }

    /// Until the user or a signal ends it. A panic restores the terminal as well: ratatui's hook
    /// does that.
    pub(super) async fn run(mut self) -> anyhow::Result<()> {
        let mut stop = Stop::listen()?;
        let mut terminal = ratatui::try_init().context("the terminal cannot be used")?;
        let ended = self.watch(&mut terminal, &mut stop).await;
        ratatui::try_restore().context("the terminal cannot be restored")?;
        Ok(ended?)
    }

    async fn watch(&mut self, terminal: &mut DefaultTerminal, stop: &mut Stop) -> io::Result<()> {
        let (window, wanted) = watch::channel(self.window);
        // One answer waits at most: asking goes on when it was drawn.
        let (answers, mut heard) = mpsc::channel(1);
        let asking = ask(self.source.clone(), self.interval, wanted, answers);
        let _asking = AbortOnDropHandle::new(tokio::spawn(asking));
        let mut events = EventStream::new();
        loop {
            terminal.draw(|frame| self.screen.draw(frame))?;
            tokio::select! {
                answer = heard.recv() => match answer {
                    Some(answer) => self.screen.take(answer),
                    None => return Err(io::Error::other("nobody asks the admin port any more")),
                },
                event = events.next() => match event {
                    Some(Ok(Event::Key(key))) => match self.screen.key(key) {
                        Action::Draw => {}
                        Action::Ask(wanted) => drop(window.send_replace(wanted)),
                        Action::Switch(wanted) => {
                            let switched = self.source.switch(&wanted).await;
                            self.screen.switched(&wanted, switched);
                        }
                        Action::Quit => return Ok(()),
                    },
                    // Anything else, such as another size, is a reason to draw.
                    Some(Ok(_)) => {}
                    Some(Err(error)) => return Err(error),
                    None => return Ok(()),
                },
                () = stop.requested() => return Ok(()),
            }
        }
    }
}

/// Asks again and again, at once when another window is wanted, until nobody listens.
async fn ask(
    source: Source,
    interval: Duration,
    mut wanted: watch::Receiver<Window>,
    answers: mpsc::Sender<anyhow::Result<Snapshot>>,
) {
    loop {
        let window = *wanted.borrow_and_update();
        let answer = source.snapshot(window).await;
        if answers.send(answer).await.is_err() {
            return;
        }
        // Ends early by a change, or by the end of the one who would change it.
        if let Ok(Err(_)) = timeout(interval, wanted.changed()).await {
            return;
        }
    }
}

/// The signals that end a program in a terminal.
struct Stop([Signal; 3]);

impl Stop {
    fn listen() -> io::Result<Self> {
        let kinds = [SignalKind::terminate(), SignalKind::interrupt(), SignalKind::hangup()];
        let [terminate, interrupt, hangup] = kinds.map(signal);
        Ok(Self([terminate?, interrupt?, hangup?]))
    }

    async fn requested(&mut self) {
        let [terminate, interrupt, hangup] = &mut self.0;
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
            _ = hangup.recv() => {}
        }
    }
}
