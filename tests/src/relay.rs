//! A connection with latency, or one that is cut or stalls. Every chunk is delayed in each direction, and after a
//! number of bytes in one direction the fault happens. It is used as ssh's ProxyCommand.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

use crate::link::{Fate, Fault, Way};

/// Connects stdin and stdout with `host:port`, and delays every chunk by `delay` in each direction. `fault` counts
/// bytes.
pub fn run(delay: Duration, fault: Option<Fault>, host: &str, port: u16) -> Result<()> {
    let socket = TcpStream::connect((host, port)).with_context(|| format!("cannot connect to {host}:{port}"))?;
    socket.set_nodelay(true)?;
    let upwards = socket.try_clone()?;
    let of = move |way: Way| fault.filter(|fault| fault.way == way);
    std::thread::spawn(move || {
        hold(std::io::stdin(), Faulty { to: &upwards, left: of(Way::Up).map(|fault| (fault.at, fault.fate)) }, delay);
        let _ = upwards.shutdown(Shutdown::Write);
    });
    hold(&socket, Faulty { to: std::io::stdout(), left: of(Way::Down).map(|fault| (fault.at, fault.fate)) }, delay);
    Ok(())
}

/// Copies until one side closes. Reading continues while earlier chunks are delayed, so this adds latency without
/// lowering the bandwidth.
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

/// One direction, and the fault that happens after this many more bytes.
struct Faulty<W> {
    to: W,
    left: Option<(usize, Fate)>,
}

impl<W: Write> Write for Faulty<W> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        match &mut self.left {
            Some((0, Fate::Stall)) => Ok(bytes.len()),
            Some((0, Fate::Cut | Fate::CutInside)) => std::process::exit(0),
            Some((left, _)) => {
                let count = self.to.write(&bytes[..bytes.len().min(*left)])?;
                *left -= count;
                Ok(count)
            }
            None => self.to.write(bytes),
        }
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.to.flush()
    }
}
