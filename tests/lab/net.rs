//! Asking a host's services, from outside, as their clients would.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, TcpStream, UdpSocket};
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(5);

/// What a web server says to `GET path`, head and body; None if nobody answers.
pub fn http_get(ip: &str, path: &str) -> Option<String> {
    let mut socket = TcpStream::connect_timeout(&(address(ip), 80).into(), PATIENCE).ok()?;
    socket.set_read_timeout(Some(PATIENCE)).ok()?;
    socket.write_all(format!("GET {path} HTTP/1.0\r\nHost: {ip}\r\n\r\n").as_bytes()).ok()?;
    let mut said = String::new();
    socket.read_to_string(&mut said).ok()?;
    Some(said)
}

/// The IPv4 address that a name server has for a name; None if it has none, or if nobody answers.
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
