//! The identity of this build. Helper and agent only talk to each other if both are of the same build.

pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// 16 hexadecimal digits that identify the sources of helper and agent. See the build script of this crate.
pub const BUILD_ID: &str = env!("DEPTOOL_BUILD_ID");

/// The code of `deptool-error` that an agent without root's rights prints in place of its first line.
pub const NO_ROOT: &str = "no-root";

/// The file name of the agent on a host: `deptool-agent-<version>-<build id>`.
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
