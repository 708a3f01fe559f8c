//! A link with latency: every chunk is held for a while, in each direction. Used as ssh's ProxyCommand.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

/// Connects stdin and stdout with `host:port`, holding every chunk for `delay` in each direction.
pub fn run(delay: Duration, host: &str, port: u16) -> Result<()> {
    let socket = TcpStream::connect((host, port)).with_context(|| format!("cannot connect to {host}:{port}"))?;
    socket.set_nodelay(true)?;
    let upwards = socket.try_clone()?;
    std::thread::spawn(move || {
        hold(std::io::stdin(), &upwards, delay);
        let _ = upwards.shutdown(Shutdown::Write);
    });
    hold(&socket, std::io::stdout(), delay);
    Ok(())
}

/// Copies until one side ends. Reading goes on while earlier chunks are held: it is a delay, not a lower bandwidth.
fn hold(mut from: impl Read + Send, mut to: impl Write, delay: Duration) {
    let (sender, receiver) = channel::<(Instant, Vec<u8>)>();
    std::thread::scope(|scope| {
        scope.spawn(move || {
            let mut buffer = [0; 65536];
            while let Ok(n @ 1..) = from.read(&mut buffer) {
                if sender.send((Instant::now() + delay, buffer[..n].to_vec())).is_err() {
                    return;
                }
            }
        });
        for (due, chunk) in receiver {
            std::thread::sleep(due.saturating_duration_since(Instant::now()));
            if to.write_all(&chunk).and_then(|()| to.flush()).is_err() {
                return;
            }
        }
    });
}
