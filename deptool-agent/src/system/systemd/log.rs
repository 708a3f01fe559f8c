//! Writes entries to the host's journal, with systemd's "Native Journal Protocol".

use std::os::unix::net::UnixDatagram;

const SOCKET: &str = "/run/systemd/journal/socket";

/// Write an entry. It is lost if the host has no journal, or if journald is just restarting.
pub fn write(message: &str, fields: &[(&str, &str)]) {
    let mut entry = String::new();
    let own = [("MESSAGE", message), ("SYSLOG_IDENTIFIER", "deptool"), ("PRIORITY", "5")];
    for (name, value) in own.iter().chain(fields) {
        // A value with a line feed would need another encoding.
        let value = value.replace('\n', " ");
        entry.push_str(&format!("{name}={value}\n"));
    }
    let _ = UnixDatagram::unbound().and_then(|socket| socket.send_to(entry.as_bytes(), SOCKET));
}
