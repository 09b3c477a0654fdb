//! A small TCP proxy that can lose what a network loses. It stands before Postgres and knows one word of its protocol:
//! COMMIT.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::Result;

/// What the proxy does at the moment.
#[derive(Debug, Default)]
struct Mode {
    /// Every so-and-so-many-th COMMIT is lost, or is handed on and its answer lost; 0 for none.
    lose_every: AtomicU64,
    /// Decides which of both.
    dice: Mutex<Option<ChaCha8Rng>>,
    /// Nothing is handed on, nothing is closed.
    hang: AtomicBool,
    /// The proxy ends.
    stop: AtomicBool,
    commits: AtomicU64,
    lost: AtomicU64,
}

/// A proxy on a port of its own.
pub struct Proxy {
    mode: Arc<Mode>,
    port: u16,
}

impl Proxy {
    /// Stands before this port of 127.0.0.1; the same seed loses the same things.
    pub fn start(target: u16, seed: u64) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").map_err(|error| format!("no proxy: {error}"))?;
        let port = listener.local_addr().map_err(|error| format!("no proxy: {error}"))?.port();
        let mode = Arc::new(Mode { dice: Mutex::new(Some(ChaCha8Rng::seed_from_u64(seed))), ..Mode::default() });
        let held = mode.clone();
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                if held.stop.load(Ordering::Relaxed) {
                    return;
                }
                if let Ok(server) = TcpStream::connect(("127.0.0.1", target)) {
                    connect(client, server, &held);
                }
            }
        });
        Ok(Self { mode, port })
    }

    /// Its port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Loses every `n`th COMMIT from now on, or its answer; 0 for none.
    pub fn lose_commits(&self, n: u64) {
        self.mode.lose_every.store(n, Ordering::Relaxed);
    }

    /// How many were lost.
    pub fn lost(&self) -> u64 {
        self.mode.lost.load(Ordering::Relaxed)
    }

    /// Hangs without closing, or goes on.
    pub fn hang(&self, hang: bool) {
        self.mode.hang.store(hang, Ordering::Relaxed);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.mode.stop.store(true, Ordering::Relaxed);
        // Wakes the listener.
        let _ = TcpStream::connect(("127.0.0.1", self.port));
    }
}

fn connect(client: TcpStream, server: TcpStream, mode: &Arc<Mode>) {
    let (Ok(client_in), Ok(server_in)) = (client.try_clone(), server.try_clone()) else { return };
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    let losing = Arc::<AtomicBool>::default();
    let (up, down) = ((mode.clone(), losing.clone()), (mode.clone(), losing));
    std::thread::spawn(move || {
        pump(client_in, server, &up.0, |bytes| {
            // A simple query: 'Q', its length, its text.
            if !bytes.windows(7).any(|window| window == b"COMMIT\0") {
                return true;
            }
            let number = up.0.commits.fetch_add(1, Ordering::Relaxed) + 1;
            let every = up.0.lose_every.load(Ordering::Relaxed);
            if every > 0 && number % every == 0 {
                up.1.store(true, Ordering::SeqCst);
                up.0.lost.fetch_add(1, Ordering::Relaxed);
                // Handed on, the server commits and nobody hears of it; lost, it rolls back.
                return up
                    .0
                    .dice
                    .lock()
                    .ok()
                    .and_then(|mut dice| Some(dice.as_mut()?.random_bool(0.5)))
                    .unwrap_or(true);
            }
            true
        })
    });
    std::thread::spawn(move || pump(server_in, client, &down.0, |_| !down.1.load(Ordering::SeqCst)));
}

/// Hands bytes on until an end is reached or `pass` says that the answer is lost: then both ends are closed.
fn pump(mut from: TcpStream, mut to: TcpStream, mode: &Mode, pass: impl Fn(&[u8]) -> bool) {
    let mut buffer = vec![0; 1 << 16];
    loop {
        let read = from.read(&mut buffer).unwrap_or(0);
        while mode.hang.load(Ordering::Relaxed) && !mode.stop.load(Ordering::Relaxed) {
            std::thread::sleep(Duration::from_millis(20));
        }
        if read == 0 || !pass(&buffer[..read]) || to.write_all(&buffer[..read]).is_err() {
            break;
        }
    }
    // Either end may be closed already.
    let _ = (from.shutdown(Shutdown::Both), to.shutdown(Shutdown::Both));
}
