//! `cargo xtask site`: the manual and the pages of `doc/` as a static website.
//!
//! Manual pages are converted by mandoc, Markdown by pulldown-cmark. All pages are in one directory; links between files
//! of the repository become links between pages.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Component, Path, PathBuf};

use anyhow::{Context as _, Result, bail, ensure};
use pulldown_cmark::{CowStr, Event, HeadingLevel, Options, Parser, Tag, TagEnd, html};

use crate::build;
use crate::process::{Cmd, find_program};

/// The program that converts manual pages, and its Debian package.
pub const NEEDS: &[(&str, &str)] = &[("mandoc", "mandoc")];

const STYLE: &str = include_str!("site/style.css");
/// Pages of other projects: mandoc's `%N` and `%S` are name and section.
const ELSEWHERE: &str = "https://manpages.debian.org/%N.%S";
/// The page that becomes `index.html`.
const INDEX: &str = "README.md";

/// Whether the site can be built on this computer.
pub fn can_build() -> bool {
    NEEDS.iter().all(|(program, _)| find_program(program).is_some())
}

/// Builds the site in an empty or missing directory, and checks its links.
pub fn build(to: &Path) -> Result<()> {
    let site = Site::of_workspace()?;
    fs::create_dir_all(to).with_context(|| format!("cannot create {}", to.display()))?;
    fs::write(to.join("style.css"), STYLE)?;
    for (source, name) in &site.pages {
        let (title, body) = if source.extension().is_some_and(|extension| extension == "md") {
            site.markdown(source)?
        } else {
            (source.file_name().unwrap_or_default().to_string_lossy().into_owned(), manual(source)?)
        };
        fs::write(to.join(name), site.layout(&title, &body)).with_context(|| format!("cannot write {name}"))?;
    }
    for source in site.linked_files()? {
        fs::copy(build::workspace().join(&source), to.join(flat(&source)))?;
    }
    let broken = broken_links(to)?;
    ensure!(broken.is_empty(), "broken links:\n{}", broken.join("\n"));
    Ok(())
}

/// Files of the repository, by their path in it, and the pages that they become.
struct Site {
    pages: BTreeMap<PathBuf, String>,
}

impl Site {
    fn of_workspace() -> Result<Site> {
        let mut pages = BTreeMap::new();
        for dir in ["", "doc", "man"] {
            let entries = fs::read_dir(build::workspace().join(dir)).with_context(|| format!("cannot read '{dir}'"))?;
            for entry in entries {
                let source = Path::new(dir).join(entry?.file_name());
                let extension = source.extension().unwrap_or_default().to_string_lossy().into_owned();
                let name = match extension.as_str() {
                    "md" if source == Path::new(INDEX) => "index.html".to_owned(),
                    "md" => format!("{}.html", source.file_stem().unwrap_or_default().to_string_lossy()),
                    "1" | "5" | "7" | "8" => format!("{}.html", flat(&source)),
                    _ => continue,
                };
                pages.insert(source, name);
            }
        }
        let examples = Path::new("doc/examples");
        for entry in fs::read_dir(build::workspace().join(examples)).context("cannot read 'doc/examples'")? {
            let name = entry?.file_name();
            pages.insert(examples.join(&name).join(INDEX), format!("{}.html", name.to_string_lossy()));
        }
        Ok(Site { pages })
    }

    fn layout(&self, title: &str, body: &str) -> String {
        let label = |source: &Path, name: &str| match (source.extension(), name) {
            (_, "index.html") => "git-deptool".to_owned(),
            (Some(extension), _) if extension == "md" => {
                name.trim_end_matches(".html").replace('-', " ").to_lowercase()
            }
            (extension, _) => {
                let stem = source.file_stem().unwrap_or_default().to_string_lossy();
                format!("{stem}({})", extension.unwrap_or_default().to_string_lossy())
            }
        };
        // The index comes first.
        let mut pages: Vec<_> = self.pages.iter().collect();
        pages.sort_by_key(|(_, name)| *name != "index.html");
        let links = pages.iter().map(|(source, name)| format!("<a href=\"{name}\">{}</a>\n", label(source, name)));
        let links: String = links.collect();
        format!(
            "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
             <meta name=\"viewport\" content=\"width=device-width\">\n<title>{title}</title>\n\
             <link rel=\"stylesheet\" href=\"style.css\">\n</head>\n<body>\n<nav>\n{links}</nav>\n\
             <main>\n{body}</main>\n</body>\n</html>\n"
        )
    }

    /// Title and body of a page in Markdown.
    fn markdown(&self, source: &Path) -> Result<(String, String)> {
        let text = read(source)?;
        let mut events: Vec<Event<'_>> = Parser::new_ext(&text, Options::ENABLE_TABLES).collect();
        let mut title = None;
        for at in 0..events.len() {
            match &events[at] {
                Event::Start(Tag::Heading { level, .. }) => {
                    let heading = plain_text(&events[at + 1..]);
                    if *level == HeadingLevel::H1 {
                        title.get_or_insert_with(|| heading.clone());
                    }
                    let slug = CowStr::from(slug(&heading));
                    if let Event::Start(Tag::Heading { id, .. }) = &mut events[at] {
                        *id = Some(slug);
                    }
                }
                Event::Start(Tag::Link { dest_url, .. } | Tag::Image { dest_url, .. }) => {
                    let target = CowStr::from(self.target(source, dest_url)?);
                    if let Event::Start(Tag::Link { dest_url, .. } | Tag::Image { dest_url, .. }) = &mut events[at] {
                        *dest_url = target;
                    }
                }
                _ => {}
            }
        }
        let mut body = String::new();
        html::push_html(&mut body, events.into_iter());
        Ok((title.with_context(|| format!("{} has no title", source.display()))?, body))
    }

    /// Where a link in a file of the repository leads to in the site.
    fn target(&self, source: &Path, url: &str) -> Result<String> {
        if url.contains("://") || url.starts_with('#') {
            return Ok(url.to_owned());
        }
        let (path, fragment) = url.split_once('#').map_or((url, None), |(path, fragment)| (path, Some(fragment)));
        let path = resolve(source, path);
        ensure!(build::workspace().join(&path).is_file(), "{}: '{url}' leads nowhere", source.display());
        let name = self.pages.get(&path).cloned().unwrap_or_else(|| flat(&path));
        Ok(fragment.map_or(name.clone(), |fragment| format!("{name}#{fragment}")))
    }

    /// Files that pages in Markdown link to, and that are no pages themselves.
    fn linked_files(&self) -> Result<BTreeSet<PathBuf>> {
        let mut files = BTreeSet::new();
        for source in self.pages.keys().filter(|source| source.extension().is_some_and(|extension| extension == "md")) {
            for event in Parser::new_ext(&read(source)?, Options::ENABLE_TABLES) {
                let Event::Start(Tag::Link { dest_url, .. } | Tag::Image { dest_url, .. }) = event else { continue };
                let path = resolve(source, dest_url.split('#').next().unwrap_or_default());
                let is_local = !dest_url.contains("://") && !dest_url.starts_with('#');
                if is_local && !self.pages.contains_key(&path) {
                    files.insert(path);
                }
            }
        }
        Ok(files)
    }
}

/// The body of a manual page.
fn manual(source: &Path) -> Result<String> {
    // mandoc looks for pages of ours in its current directory.
    let format = format!("fragment,man=%N.%S.html;{ELSEWHERE}");
    let mandoc = Cmd::new("mandoc").dir(build::workspace().join("man")).args(["-T", "html", "-O", &format]);
    let run = mandoc.arg(flat(source)).check()?;
    Ok(run.stdout())
}

fn read(source: &Path) -> Result<String> {
    fs::read_to_string(build::workspace().join(source)).with_context(|| format!("cannot read {}", source.display()))
}

/// A file's name without its directories.
fn flat(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// A path that is relative to the directory of `source`.
fn resolve(source: &Path, path: &str) -> PathBuf {
    let mut resolved = source.parent().unwrap_or(Path::new("")).to_owned();
    for component in Path::new(path).components() {
        match component {
            Component::ParentDir => drop(resolved.pop()),
            Component::CurDir => {}
            other => resolved.push(other),
        }
    }
    resolved
}

/// The text of a heading, whose content `events` begin with.
fn plain_text(events: &[Event<'_>]) -> String {
    let content = events.iter().take_while(|event| !matches!(event, Event::End(TagEnd::Heading(_))));
    let texts = content.filter_map(|event| match event {
        Event::Text(text) | Event::Code(text) => Some(text.as_ref()),
        _ => None,
    });
    texts.collect()
}

/// A heading's id, as GitHub makes it.
fn slug(heading: &str) -> String {
    let kept = heading.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
    kept.collect::<String>().to_lowercase().replace(' ', "-")
}

/// Links in the pages of a directory that lead to a file or a section that is not there.
pub fn broken_links(dir: &Path) -> Result<Vec<String>> {
    let mut pages = BTreeMap::new();
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "html") {
            pages.insert(flat(&path), fs::read_to_string(&path)?);
        }
    }
    if pages.is_empty() {
        bail!("{} has no pages", dir.display());
    }
    let mut broken = Vec::new();
    for (name, page) in &pages {
        for link in attributes(page, "href").chain(attributes(page, "src")) {
            let (file, fragment) = link.split_once('#').map_or((link, None), |(file, id)| (file, Some(id)));
            let file = if file.is_empty() { name } else { file };
            let is_there = match fragment {
                _ if link.starts_with("https://") => true,
                None => dir.join(file).is_file(),
                Some(id) => pages.get(file).is_some_and(|page| attributes(page, "id").any(|known| known == id)),
            };
            if !is_there {
                broken.push(format!("{name}: {link}"));
            }
        }
    }
    Ok(broken)
}

/// The values of an attribute in a page. Both converters write double quotes.
fn attributes<'a>(page: &'a str, name: &str) -> impl Iterator<Item = &'a str> {
    let begin = format!(" {name}=\"");
    page.match_indices(&begin)
        .map(|(at, begin)| &page[at + begin.len()..])
        .collect::<Vec<_>>()
        .into_iter()
        .map(|rest| rest.split('"').next().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_that_lead_nowhere_are_found() {
        let dir = tempfile::tempdir().unwrap();
        let page = "<a href=\"b.html\">b</a> <a href=\"b.html#there\">b</a> <a href=\"https://example.org/x\">x</a> \
                    <img src=\"gone.svg\"> <a href=\"b.html#gone\">b</a> <a href=\"#gone\">a</a> <a href=\"c.html\">c</a>";
        fs::write(dir.path().join("a.html"), page).unwrap();
        fs::write(dir.path().join("b.html"), "<h1 id=\"there\">B</h1>").unwrap();
        let broken = broken_links(dir.path()).unwrap();
        assert_eq!(broken, ["a.html: b.html#gone", "a.html: #gone", "a.html: c.html", "a.html: gone.svg"]);
    }

    #[test]
    fn links_between_files_become_links_between_pages() {
        let site = Site::of_workspace().unwrap();
        let doc = Path::new("doc/faults.md");
        assert_eq!(site.target(doc, "../README.md#install").unwrap(), "index.html#install");
        assert_eq!(site.target(doc, "../man/deptool.7").unwrap(), "deptool.7.html");
        assert_eq!(site.target(Path::new(INDEX), "LICENSE").unwrap(), "LICENSE");
        assert!(site.target(doc, "gone.md").is_err());
    }

    #[test]
    fn headings_have_the_ids_that_github_gives_them() {
        assert_eq!(slug("How it works"), "how-it-works");
        assert_eq!(slug("`xtask`: what, and why?"), "xtask-what-and-why");
    }
}
