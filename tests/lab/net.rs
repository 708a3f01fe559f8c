//! Clients for the services of a host.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, TcpStream, UdpSocket};
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(5);

/// The answer of a web server to `GET path`, head and body; None if there is no answer.
pub fn http_get(ip: &str, path: &str) -> Option<String> {
    let mut socket = TcpStream::connect_timeout(&(address(ip), 80).into(), PATIENCE).ok()?;
    socket.set_read_timeout(Some(PATIENCE)).ok()?;
    socket.write_all(format!("GET {path} HTTP/1.0\r\nHost: {ip}\r\n\r\n").as_bytes()).ok()?;
    let mut said = String::new();
    socket.read_to_string(&mut said).ok()?;
    Some(said)
}

/// The IPv4 address of a name according to a name server; None if there is none, or no answer.
pub fn dns_a(ip: &str, name: &str) -> Option<IpAddr> {
    // RFC 1035, 4.1: a header with one question, recursion not desired.
    let mut query = vec![0x12, 0x34, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.split('.') {
        query.push(u8::try_from(label.len()).ok()?);
        query.extend(label.as_bytes());
    }
    query.extend([0, 0, 1, 0, 1]);
    let socket = UdpSocket::bind("0.0.0.0:0").ok()?;
    socket.set_read_timeout(Some(PATIENCE)).ok()?;
    socket.connect((address(ip), 53)).ok()?;
    socket.send(&query).ok()?;
    let mut answer = [0; 512];
    let length = socket.recv(&mut answer).ok()?;
    let answers = u16::from_be_bytes([answer[6], answer[7]]);
    // The first answer follows the question: a pointer to the name, type, class, time to live, length, address.
    let data = answer.get(query.len() + 12..length)?;
    let octets: [u8; 4] = data.get(..4)?.try_into().ok()?;
    (answers > 0).then(|| octets.into())
}

fn address(ip: &str) -> IpAddr {
    ip.parse().expect("the lab gives its hosts addresses")
}

/// Requests a page repeatedly, each time over a new connection.
pub struct Poll {
    stop: std::sync::Arc<std::sync::atomic::AtomicBool>,
    thread: std::thread::JoinHandle<Polled>,
}

/// The result.
#[derive(Debug, Default)]
pub struct Polled {
    pub good: usize,
    pub failed: usize,
    /// From the last good answer before an outage to the first one after it.
    pub longest: Duration,
}

impl std::fmt::Display for Polled {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let ms = self.longest.as_secs_f64() * 1e3;
        write!(f, "{} good, {} failed, longest outage {ms:.1} ms", self.good, self.failed)
    }
}

impl Poll {
    pub fn start(ip: &str) -> Poll {
        let stop = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
        let (ip, until) = (ip.to_owned(), stop.clone());
        Poll { stop, thread: std::thread::spawn(move || poll(&ip, &until)) }
    }

    pub fn end(self) -> Polled {
        self.stop.store(true, std::sync::atomic::Ordering::Relaxed);
        self.thread.join().expect("polling does not panic")
    }
}

fn poll(ip: &str, stop: &std::sync::atomic::AtomicBool) -> Polled {
    let (mut polled, mut last_good, mut is_out) = (Polled::default(), std::time::Instant::now(), false);
    while !stop.load(std::sync::atomic::Ordering::Relaxed) {
        if http_get(ip, "/").is_some_and(|answer| answer.starts_with("HTTP/1.1 200 ")) {
            if is_out {
                polled.longest = polled.longest.max(last_good.elapsed());
            }
            (last_good, is_out) = (std::time::Instant::now(), false);
            polled.good += 1;
        } else {
            is_out = true;
            polled.failed += 1;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    polled
}
