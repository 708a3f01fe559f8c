//! Entries of our own in the host's journal: systemd's "Native Journal Protocol".

use std::os::unix::net::UnixDatagram;

const SOCKET: &str = "/run/systemd/journal/socket";

/// Write an entry. A host without a journal has none, and a journal that is restarting loses one.
pub fn write(message: &str, fields: &[(&str, &str)]) {
    let mut entry = String::new();
    let own = [("MESSAGE", message), ("SYSLOG_IDENTIFIER", "deptool"), ("PRIORITY", "5")];
    for (name, value) in own.iter().chain(fields) {
        // A value with a line break would need its length in front.
        let value = value.replace('\n', " ");
        entry.push_str(&format!("{name}={value}\n"));
    }
    let _ = UnixDatagram::unbound().and_then(|socket| socket.send_to(entry.as_bytes(), SOCKET));
}
