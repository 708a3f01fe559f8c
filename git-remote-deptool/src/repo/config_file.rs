//! Writes the repository's own configuration, like `git config --local`.

use std::{io, path::PathBuf};

use gix::{
    bstr::{self, BStr, BString, ByteSlice as _},
    config::{File, Source},
    lock,
};

use super::Repo;

/// A value to be written.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Setting {
    /// `section.name` or `section.subsection.name`. The subsection may have dots.
    pub key: String,
    pub value: String,
    /// What happens to existing values of the key.
    #[serde(skip)]
    pub others: Others,
}

/// What happens to existing values of a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Others {
    /// The last one is replaced.
    Replaced,
    /// They are kept, and the new value is added after them.
    Kept,
    /// They are lists of words: the new value takes the place of this word in each of them.
    Word(String),
}

/// A subsection that gets another name: `[remote "web1"]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Renamed<'a> {
    pub section: &'static str,
    pub from: &'a str,
    pub to: &'a str,
}

/// Why the configuration could not be written. It is unchanged.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// Another process is writing it, or its directory can't be written to.
    #[error("could not lock '{}'", path.display())]
    Lock {
        path: PathBuf,
        #[source]
        source: gix::Error,
    },
    /// The existing file can't be parsed, or a name is not valid.
    #[error("could not edit '{}'", path.display())]
    Edit {
        path: PathBuf,
        #[source]
        source: gix::Error,
    },
    /// Writing failed.
    #[error("could not write '{}'", path.display())]
    Write {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
}

impl Repo {
    /// Write all of `settings` or none. Comments and everything else are kept.
    pub fn configure(&self, settings: &[Setting]) -> Result<(), ConfigError> {
        self.configure_renamed(None, settings)
    }

    /// The same, after a subsection was renamed. It must be there.
    pub fn configure_renamed(&self, renamed: Option<Renamed<'_>>, settings: &[Setting]) -> Result<(), ConfigError> {
        let path = self.common_dir().join("config");
        let edit = |source: gix::Error| ConfigError::Edit { path: path.clone(), source };
        let write = |source: io::Error| ConfigError::Write { path: path.clone(), source };
        // Like Git, replace the target of a symlink and not the symlink.
        let target = path.canonicalize().map_err(write)?;
        let mut lock = lock::File::acquire_to_update_resource(&target, lock::acquire::Fail::Immediately, None, 0)
            .map_err(|source| ConfigError::Lock { path: path.clone(), source: gix::Error::from_error(source) })?;
        let mut file = File::from_path_no_includes(target.clone(), Source::Local).map_err(edit)?;
        if let Some(Renamed { section, from, to }) = renamed {
            let moved = file.rename_section(section, BStr::new(from), section, BString::from(to));
            moved.map_err(|error| edit(gix::Error::from_error(error)))?;
        }
        for setting in settings {
            put(&mut file, setting).map_err(edit)?;
        }
        let permissions = target.metadata().map_err(write)?.permissions();
        let written = lock.with_mut(|out| {
            file.write_to(out)?;
            out.set_permissions(permissions)?;
            out.sync_all()
        });
        written.map_err(write)?;
        lock.commit().map_err(|error| write(error.error))?;
        Ok(())
    }
}

fn put(file: &mut File, Setting { key, value, others }: &Setting) -> Result<(), gix::Error> {
    let (section, rest) = key.split_once('.').unwrap_or((key, ""));
    let (subsection, name) =
        rest.rsplit_once('.').map_or((None, rest), |(subsection, name)| (Some(BStr::new(subsection)), name));
    match others {
        Others::Replaced => drop(file.set_raw_value_by(section, subsection, name, value.as_str())?),
        Others::Kept => {
            let mut section = file.section_mut_or_create_new(section, subsection)?;
            section.push(name, Some(value.as_str().into()))?;
        }
        Others::Word(old) => {
            // Without values in this file, there is nothing to do.
            let Ok(mut values) = file.raw_values_mut_by(section, subsection, name) else { return Ok(()) };
            for (at, list) in values.get()?.iter().enumerate() {
                let is_old = |word: &[u8]| word == old.as_bytes();
                if list.split_str(b" ").any(is_old) {
                    let words = list.split_str(b" ").map(|word| if is_old(word) { value.as_bytes() } else { word });
                    values.set_at(at, bstr::join(" ", words))?;
                }
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::{Others::*, *};
    use crate::repo::testing::Scratch;

    fn setting(key: &str, value: &str, others: Others) -> Setting {
        Setting { key: key.into(), value: value.into(), others }
    }

    #[test]
    fn git_reads_what_was_written_and_the_rest_is_as_it_was() {
        let scratch = Scratch::init(&[]);
        let path = scratch.path().join(".git/config");
        let before = std::fs::read_to_string(&path).unwrap() + "# a comment\n[remote \"a.b\"]\n\tfetch = first\n";
        std::fs::write(&path, &before).unwrap();
        let settings = [
            setting("remote.a.b.fetch", "^second", Kept),
            setting("deptool.nothing.x", "new", Word("old".into())),
            setting("remote.a.b.url", "a#b; \"c\"", Replaced),
            setting("deptool.cluster", "prod", Replaced),
            setting("core.bare", "false", Replaced),
        ];
        scratch.open().configure(&settings).unwrap();
        assert_eq!(scratch.git(&["config", "--get-all", "remote.a.b.fetch"]), "first\n^second");
        assert_eq!(scratch.git(&["config", "--get-all", "remote.a.b.url"]), "a#b; \"c\"");
        assert_eq!(scratch.git(&["config", "--get-all", "deptool.cluster"]), "prod");
        assert_eq!(scratch.git(&["config", "--get-all", "core.bare"]), "false");
        assert!(std::fs::read_to_string(&path).unwrap().starts_with(&before));
    }

    #[test]
    fn a_link_stays_a_link_and_the_mode_stays() {
        let scratch = Scratch::init(&[]);
        let (link, target) = (scratch.path().join(".git/config"), scratch.path().join("elsewhere"));
        std::fs::rename(&link, &target).unwrap();
        std::fs::set_permissions(&target, PermissionsExt::from_mode(0o640)).unwrap();
        symlink(&target, &link).unwrap();
        scratch.open().configure(&[setting("deptool.cluster", "prod", Replaced)]).unwrap();
        assert_eq!(std::fs::read_link(&link).unwrap(), target);
        assert_eq!(target.metadata().unwrap().permissions().mode() & 0o777, 0o640);
    }

    #[test]
    fn a_configuration_that_is_locked_is_left_alone() {
        let scratch = Scratch::init(&[]);
        std::fs::write(scratch.path().join(".git/config.lock"), "").unwrap();
        let error = scratch.open().configure(&[setting("deptool.cluster", "prod", Replaced)]).unwrap_err();
        assert!(matches!(error, ConfigError::Lock { .. }), "{error}");
        assert!(scratch.path().join(".git/config.lock").exists());
    }
}
