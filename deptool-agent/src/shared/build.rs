//! Which build this is. Helper and agent talk to each other only if theirs is the same.

/// The version of the packages.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// 16 hexadecimal digits that identify the sources of both ends: see `build.rs`.
pub const BUILD_ID: &str = env!("DEPTOOL_BUILD_ID");

/// The agent's file name on a host: `deptool-agent-<version>-<build id>`.
pub fn agent_file_name() -> String {
    format!("deptool-agent-{VERSION}-{BUILD_ID}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_build_id_is_sixteen_hexadecimal_digits() {
        assert_eq!(BUILD_ID.len(), 16);
        assert!(BUILD_ID.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b)), "{BUILD_ID}");
    }

    #[test]
    fn the_agents_file_name_needs_no_quoting_in_any_shell() {
        let name = agent_file_name();
        assert!(name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-.+".contains(&b)), "{name}");
    }
}
