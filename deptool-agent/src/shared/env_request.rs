//! The request in the environment: the beginning of the helper's stream travels in a variable as well as on stdin.
//!
//! An SSH session takes nothing on stdin before its command was started, which costs a round trip even on a
//! connection that is already open. Environment variables are sent before the command (RFC 4254, 6.4). OpenSSH
//! servers commonly accept variables that are named like locale settings (`AcceptEnv LC_*`), and sudo passes them on.
//! So a helper that is far away also sends the beginning of its stream in such a variable. If the variable arrives,
//! the agent has the request a round trip earlier and skips the same bytes on stdin. If it does not arrive, stdin
//! brings everything.
//!
//! Only processes of the same user and of root can read the variable, so the request is as secret as on stdin.

use crate::shared::text::{hex, unhex};

pub const VARIABLE: &str = "LC_DEPTOOL";
/// The most bytes that travel this way. sshd, sudo and the kernel all have room for more.
pub const MAX_BYTES: usize = 16 << 10;

/// The value of the variable for `bytes`: hex digits pass through sudo and every shell unchanged.
pub fn encode(bytes: &[u8]) -> String {
    hex(bytes)
}

/// The bytes that `value` encodes, or `None` if it was not made by [`encode`].
pub fn decode(value: &[u8]) -> Option<Vec<u8>> {
    if value.len() > 2 * MAX_BYTES { None } else { unhex(value) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_survive_the_variable_and_foreign_values_are_ignored() {
        let bytes: Vec<u8> = (0..=255).collect();
        assert_eq!(decode(encode(&bytes).as_bytes()), Some(bytes));
        for bad in ["0", "0g", "C", "en_US.UTF-8"] {
            assert_eq!(decode(bad.as_bytes()), None);
        }
        assert_eq!(decode(&vec![b'0'; 2 * MAX_BYTES + 2]), None);
    }
}
