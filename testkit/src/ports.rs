use anyhow::{Context, Result, bail};
use nix::unistd::Uid;
use std::{
    env,
    fs::{self, File},
    net::{SocketAddr, TcpListener},
    process,
    sync::atomic::{AtomicU16, Ordering},
};

/// A port of 127.0.0.1 that no other test takes while this value lives, so that a killed server
/// finds its port free when it is restarted.
///
/// Ports come from below the range the kernel picks from, so neither `:0` listeners nor outgoing
/// connections collide with them. Other test processes are kept away by a lock on a file.
#[derive(Debug)]
pub(crate) struct Port {
    number: u16,
    _lock: File,
}

const FIRST: u16 = 20_000;
const COUNT: u16 = 12_000;

impl Port {
    pub(crate) fn reserve() -> Result<Self> {
        static NEXT: AtomicU16 = AtomicU16::new(0);
        let locks = env::temp_dir().join(format!("seawall-test-ports-{}", Uid::current()));
        fs::create_dir_all(&locks).with_context(|| format!("creating {}", locks.display()))?;
        // Processes begin in different places, or each would first try all ports of the others.
        let start = process::id() % u32::from(COUNT);
        for _ in 0..COUNT {
            let step = u32::from(NEXT.fetch_add(1, Ordering::Relaxed));
            let number = FIRST + ((start + step) % u32::from(COUNT)) as u16;
            let path = locks.join(number.to_string());
            let lock = File::options()
                .create(true)
                .append(true)
                .open(&path)
                .with_context(|| format!("opening {}", path.display()))?;
            if lock.try_lock().is_ok() && TcpListener::bind(("127.0.0.1", number)).is_ok() {
                return Ok(Self { number, _lock: lock });
            }
        }
        bail!("no free port from {FIRST} on: see the locks in {}", locks.display())
    }

    pub(crate) fn address(&self) -> SocketAddr {
        ([127, 0, 0, 1], self.number).into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reserved_port_is_free_and_given_once() -> Result<()> {
        let ports = (0..50).map(|_| Port::reserve()).collect::<Result<Vec<_>>>()?;
        for port in &ports {
            TcpListener::bind(port.address())?;
        }
        let mut numbers: Vec<u16> = ports.iter().map(|port| port.number).collect();
        numbers.sort_unstable();
        numbers.dedup();
        assert_eq!(numbers.len(), ports.len());
        Ok(())
    }
}
