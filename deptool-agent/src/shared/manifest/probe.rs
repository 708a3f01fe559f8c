//! Health probes: what must answer before a deployment is kept. Pure.
//!
//! Addresses are numeric or `localhost`: the agent is a static binary and can't resolve names like its host does.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    time::Duration,
};

use serde::Deserialize;

use super::Window;
use crate::shared::name::UnitName;

/// The default of `within`.
const WITHIN: Window = Window(Duration::from_secs(5));
/// The default of `status`.
const STATUS: u16 = 200;

const ADDRESS: &str = "an address is written as \"127.0.0.1:53\" or \"[::1]:53\"; of names only 'localhost' is known, \
                       because the agent does not resolve any";
const URL: &str = "a URL is written as \"http://127.0.0.1:8080/healthz\"; of names only 'localhost' is known, because \
                   the agent does not resolve any";

/// A health probe.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "Fields")]
pub struct Probe {
    pub target: Target,
    /// The time limit after the units have settled. The probe is repeated until then.
    pub within: Duration,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// The address must accept connections.
    Tcp(Address),
    /// The URL must answer a `GET` request with this status.
    Http { url: Url, status: u16 },
    /// The oneshot of the app must succeed.
    Unit(UnitName),
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Target::Tcp(address) => write!(f, "tcp {}", address.text),
            Target::Http { url, .. } => f.write_str(&url.text),
            Target::Unit(unit) => write!(f, "'{unit}'"),
        }
    }
}

/// The JSON object.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Fields {
    tcp: Option<Address>,
    http: Option<Url>,
    unit: Option<UnitName>,
    status: Option<u16>,
    within: Option<Window>,
}

impl TryFrom<Fields> for Probe {
    type Error = &'static str;
    fn try_from(fields: Fields) -> Result<Self, Self::Error> {
        let target = match (fields.tcp, fields.http, fields.unit, fields.status) {
            (Some(address), None, None, None) => Target::Tcp(address),
            (None, Some(url), None, status) => Target::Http { url, status: status.unwrap_or(STATUS) },
            (None, None, Some(unit), None) => Target::Unit(unit),
            (Some(_), None, None, Some(_)) | (None, None, Some(_), Some(_)) => {
                return Err("'status' is for 'http' only");
            }
            _ => return Err("it has one of 'tcp', 'http' and 'unit'"),
        };
        if let Target::Http { status, .. } = &target
            && !(100..=599).contains(status)
        {
            return Err("'status' is a number from 100 to 599");
        }
        Ok(Probe { target, within: fields.within.unwrap_or(WITHIN).0 })
    }
}

/// The address of a service: one socket address, or both of `localhost`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Address {
    text: String,
    pub sockets: Vec<SocketAddr>,
}

impl TryFrom<String> for Address {
    type Error = &'static str;
    fn try_from(text: String) -> Result<Self, Self::Error> {
        let sockets = sockets(&text, None).ok_or(ADDRESS)?;
        Ok(Address { text, sockets })
    }
}

/// Parse `host:port`. The port may be omitted if there is a default.
fn sockets(text: &str, usual: Option<u16>) -> Option<Vec<SocketAddr>> {
    let (host, port) = match text.rsplit_once(':') {
        // Without brackets, an IPv6 address would be ambiguous.
        Some((host, port)) if !port.ends_with(']') => {
            let digits = !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit());
            (host, if digits { port.parse().ok()? } else { return None })
        }
        _ => (text, usual?),
    };
    let hosts = match (host, host.strip_prefix('[').and_then(|host| host.strip_suffix(']'))) {
        ("localhost", _) => vec![IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)],
        (_, Some(inner)) => vec![IpAddr::V6(inner.parse().ok()?)],
        (host, None) => vec![IpAddr::V4(host.parse().ok()?)],
    };
    (port != 0).then(|| hosts.into_iter().map(|host| SocketAddr::new(host, port)).collect())
}

/// An `http://` URL.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Url {
    text: String,
    /// The part for the `Host:` header.
    pub authority: String,
    pub sockets: Vec<SocketAddr>,
    /// Path and query, beginning with a slash.
    pub path: String,
}

impl TryFrom<String> for Url {
    type Error = &'static str;
    fn try_from(text: String) -> Result<Self, Self::Error> {
        if text.starts_with("https:") {
            return Err("TLS is not supported: use http, or 'tcp' to check only that the port is open");
        }
        let rest = text.strip_prefix("http://").ok_or(URL)?;
        let (authority, path) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
        let sockets = sockets(authority, Some(80)).ok_or(URL)?;
        if !path.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'#') {
            return Err("a URL has neither spaces nor '#' nor characters beyond ASCII: write them as %20 and so on");
        }
        let slash = if path.starts_with('/') { "" } else { "/" };
        Ok(Url { authority: authority.to_owned(), sockets, path: format!("{slash}{path}"), text })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn probe(json: &str) -> Result<Probe, String> {
        serde_json::from_str(json).map_err(|error| error.to_string())
    }

    fn url(text: &str) -> Result<(String, String, String), &'static str> {
        let url = Url::try_from(text.to_owned())?;
        Ok((url.authority, url.sockets[0].to_string(), url.path))
    }

    #[test]
    fn addresses_are_numbers_or_localhost() {
        let sockets = |text: &str| Address::try_from(text.to_owned()).map(|address| address.sockets);
        assert_eq!(sockets("127.0.0.1:53").unwrap(), ["127.0.0.1:53".parse().unwrap()]);
        assert_eq!(sockets("[::1]:53").unwrap(), ["[::1]:53".parse().unwrap()]);
        assert_eq!(sockets("localhost:53").unwrap().len(), 2);
        for bad in ["127.0.0.1", "example.org:53", "::1:53", "1.2.3.4:0", "1.2.3.4:65536", "1.2.3.4:+5", "[::1]", ":5"]
        {
            assert_eq!(sockets(bad), Err(ADDRESS), "{bad}");
        }
    }

    #[test]
    fn urls_are_split_and_nothing_gets_into_a_request_that_does_not_belong_there() {
        let three = |a: &str, b: &str, c: &str| Ok((a.to_owned(), b.to_owned(), c.to_owned()));
        assert_eq!(url("http://127.0.0.1"), three("127.0.0.1", "127.0.0.1:80", "/"));
        assert_eq!(url("http://[::1]:8080/a?b=c"), three("[::1]:8080", "[::1]:8080", "/a?b=c"));
        assert_eq!(url("http://[::1]/"), three("[::1]", "[::1]:80", "/"));
        assert_eq!(url("http://localhost?x"), three("localhost", "127.0.0.1:80", "/?x"));
        for bad in ["", "127.0.0.1", "http://", "http://example.org/", "http://me@127.0.0.1/", "ftp://127.0.0.1/"] {
            assert_eq!(url(bad), Err(URL), "{bad}");
        }
        for bad in ["http://127.0.0.1/a b", "http://127.0.0.1/\r\nX: y", "http://127.0.0.1/#x", "http://127.0.0.1/ü"] {
            assert!(url(bad).unwrap_err().contains("%20"), "{bad}");
        }
        assert!(url("https://127.0.0.1/").unwrap_err().contains("TLS"));
    }

    #[test]
    fn a_probe_is_of_one_kind() {
        let http = probe(r#"{"http": "http://127.0.0.1/", "within": "200ms"}"#).unwrap();
        assert_eq!(http.within, Duration::from_millis(200));
        assert!(matches!(http.target, Target::Http { status: 200, .. }));
        assert_eq!(probe(r#"{"tcp": "127.0.0.1:53"}"#).unwrap().target.to_string(), "tcp 127.0.0.1:53");
        for (bad, expected) in [
            ("{}", "one of 'tcp', 'http' and 'unit'"),
            (r#"{"tcp": "127.0.0.1:53", "http": "http://127.0.0.1/"}"#, "one of 'tcp', 'http' and 'unit'"),
            (r#"{"unit": "a.service", "tcp": "127.0.0.1:53"}"#, "one of 'tcp', 'http' and 'unit'"),
            (r#"{"unit": "a.service", "status": 200}"#, "'status' is for 'http' only"),
            (r#"{"unit": "a"}"#, "invalid unit name"),
            (r#"{"tcp": "127.0.0.1:53", "status": 200}"#, "'status' is for 'http' only"),
            (r#"{"http": "http://127.0.0.1/", "status": 99}"#, "'status' is a number"),
            (r#"{"udp": "127.0.0.1:53"}"#, "unknown field `udp`"),
        ] {
            let error = probe(bad).unwrap_err();
            assert!(error.contains(expected), "{error}");
        }
    }
}
