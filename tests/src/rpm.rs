//! An RPM package of what [`crate::dist`] installs, for Fedora, RHEL and its clones, and SUSE. See rpmbuild(8).

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};
use deptool_agent::shared::build::VERSION;

use crate::deb::{self, Compression};
use crate::{dist, process::Cmd};

pub fn file_name(architecture: &str) -> String {
    format!("git-deptool-{VERSION}-1.{architecture}.rpm")
}

/// Packages a prefix that was installed, with its modes and times, as `/usr`. `stage` is a directory for rpmbuild.
pub fn package(usr: &Path, architecture: &str, stage: &Path, out: &Path, compression: Compression) -> Result<()> {
    let payload = match compression {
        Compression::Best => "w6.xzdio",
        Compression::Fast => "w0.ufdio",
    };
    let spec = stage.join("git-deptool.spec");
    fs::create_dir_all(stage)?;
    fs::write(&spec, self::spec(usr)?)?;
    let settings = [
        format!("_topdir {}", stage.display()),
        format!("_rpmdir {}", out.display()),
        "_rpmfilename %{NAME}-%{VERSION}-%{RELEASE}.%{ARCH}.rpm".to_owned(),
        // The same package each time, wherever it is made.
        "_buildhost localhost".to_owned(),
        "use_source_date_epoch_as_buildtime 1".to_owned(),
        "clamp_mtime_to_source_date_epoch 1".to_owned(),
        format!("_binary_payload {payload}"),
        // Binaries are as they were built: not stripped again, no links by build id, no package for debuggers.
        "__os_install_post %{nil}".to_owned(),
        "_build_id_links none".to_owned(),
        "debug_package %{nil}".to_owned(),
    ];
    let defines = settings.iter().flat_map(|setting| ["--define", setting]);
    let build = Cmd::new("rpmbuild").args(["-bb", "--quiet", "--target", architecture]).args(defines).arg(&spec);
    build.env("SOURCE_DATE_EPOCH", deb::epoch()?.to_string()).env("LC_ALL", "C").check()?;
    Ok(())
}

fn spec(usr: &Path) -> Result<String> {
    let mut files = String::new();
    for file in dist::files(usr)? {
        files.push_str(&format!("/usr/{}\n", file.to_str().context("a name is not UTF-8")?));
    }
    let summary = deb::SUMMARY;
    Ok(format!(
        "Name: git-deptool\nVersion: {VERSION}\nRelease: 1\nSummary: {summary}\nLicense: Apache-2.0\n\
         Requires: git >= 2.30, openssh-clients\nAutoReqProv: no\n\n%description\n{summary}\n\n\
         %install\nmkdir -p %{{buildroot}}\ncp -a '{}' %{{buildroot}}/usr\n\n%files\n%defattr(-,root,root)\n{files}",
        usr.display()
    ))
}
