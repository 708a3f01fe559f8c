//! A request that travels in an environment variable, beside the one on stdin.
//!
//! An SSH session takes nothing on stdin before its command was started, which costs a round trip on a connection that is
//! there already. Environment variables travel ahead of the command (RFC 4254, 6.4), and OpenSSH's servers are commonly
//! set up to accept those that are named like locale settings (`AcceptEnv LC_*`), as sudo passes them on. So a helper
//! that is far away sends the beginning of its stream in such a variable, too. Where the variable does not arrive, stdin
//! brings the same; where it does, the agent has it a round trip sooner, and skips it on stdin.
//!
//! Only processes of the login and of root can read the variable; it is no less secret than stdin.

use crate::shared::text::{hex, unhex};

/// The name of the variable.
pub const VARIABLE: &str = "LC_DEPTOOL";
/// How many bytes travel this way at most. Everything that passes the variable on has room for some more.
pub const MOST: usize = 16 << 10;

/// Bytes as the variable's value: hex digits, which neither sudo nor a shell minds.
pub fn encode(bytes: &[u8]) -> String {
    hex(bytes)
}

/// The bytes of the variable's `value`; `None` if it is none of ours.
pub fn decode(value: &[u8]) -> Option<Vec<u8>> {
    if value.len() > 2 * MOST { None } else { unhex(value) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_variable_brings_the_bytes_that_it_was_given_or_none() {
        let bytes: Vec<u8> = (0..=255).collect();
        assert_eq!(decode(encode(&bytes).as_bytes()), Some(bytes));
        for bad in ["0", "0g", "C", "en_US.UTF-8"] {
            assert_eq!(decode(bad.as_bytes()), None);
        }
        assert_eq!(decode(&vec![b'0'; 2 * MOST + 2]), None);
    }
}
