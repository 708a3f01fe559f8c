//! The picture in the README: part of the demo, drawn as a terminal shows it.

use std::fmt::Write as _;
use std::path::PathBuf;

use anyhow::{Context as _, Result, ensure};

use crate::build;
use crate::demo::{self, Step};
use crate::sandbox::Sandbox;

/// The commands to draw. Of each, the first run is drawn.
const COMMANDS: [&str; 4] = ["git deptool plan", "git push cluster", "git deptool status", "git push web1 prod"];

const COLUMNS: usize = 92;
const COLUMN: f64 = 7.8;
const LINE: usize = 17;
const MARGIN: usize = 14;

/// Where the picture is in the repository.
pub fn path() -> PathBuf {
    build::workspace().join("doc/session.svg")
}

/// Runs the demo in an empty sandbox, and draws it.
pub fn draw(sandbox: &Sandbox) -> Result<String> {
    sandbox.command("git").args(["config", "--global", "color.ui", "always"]).check()?;
    let mut runs: Vec<Option<String>> = COMMANDS.iter().map(|_| None).collect();
    demo::run(sandbox, &mut |step| {
        let Step::Command { line, output, .. } = step else { return };
        if let Some(at) = COMMANDS.iter().position(|command| command == line) {
            runs[at].get_or_insert_with(|| output.clone());
        }
    })?;
    let mut lines = Vec::new();
    for (command, output) in COMMANDS.iter().zip(runs) {
        let output = output.with_context(|| format!("the demo does not run '{command}'"))?;
        if !lines.is_empty() {
            lines.push(Vec::new());
        }
        lines.push(vec![Span { text: "$ ".into(), class: "prompt" }, Span { text: (*command).into(), class: "bold" }]);
        // The sandbox's directory has another name each time, and says nothing to the reader.
        let output = output.replace(&sandbox.dir().display().to_string(), "/\u{2026}");
        lines.extend(output.lines().map(spans));
    }
    svg(&lines)
}

/// A picture without what differs from one run to the next: ids and times, and the width of columns with them.
pub fn normalized(svg: &str) -> String {
    let mut text = String::new();
    let mut rest = svg;
    while let Some(first) = rest.chars().next() {
        let is_word = |c: char| c.is_ascii_alphanumeric() || c == '.';
        let end = rest.find(|c| is_word(c) != is_word(first)).unwrap_or(rest.len());
        let (token, after) = rest.split_at(end);
        let is_number = token.parse::<f64>().is_ok();
        let has_unit = [" s", " ms", " min"].iter().any(|unit| {
            after.strip_prefix(unit).is_some_and(|after| !after.starts_with(|c: char| c.is_ascii_alphanumeric()))
        });
        let is_id = token.len() >= 7
            && token.bytes().all(|byte| byte.is_ascii_hexdigit())
            && token.bytes().any(|byte| byte.is_ascii_digit());
        match token {
            _ if is_number && has_unit => text.push('N'),
            _ if is_id => text.push_str("ID"),
            _ if token.bytes().all(|byte| byte == b' ') => text.push(' '),
            _ => text.push_str(token),
        }
        rest = after;
    }
    text
}

/// Text of one colour.
#[derive(Debug, PartialEq, Eq)]
struct Span {
    text: String,
    class: &'static str,
}

/// A line of a terminal, with its escape sequences carried out as far as they are about colours.
fn spans(line: &str) -> Vec<Span> {
    let mut class = "";
    let mut spans = Vec::new();
    for (at, part) in line.split("\x1b[").enumerate() {
        let text = match part.split_once('m') {
            Some((code, text)) if at > 0 => {
                class = class_of(code);
                text
            }
            _ => part.strip_prefix('K').unwrap_or(part),
        };
        if !text.is_empty() {
            spans.push(Span { text: text.to_owned(), class });
        }
    }
    spans
}

fn class_of(code: &str) -> &'static str {
    match code.split(';').next_back().unwrap_or_default() {
        "1" => "bold",
        "2" => "dim",
        "31" => "red",
        "32" => "green",
        "33" => "yellow",
        "34" | "36" => "cyan",
        _ => "",
    }
}

fn svg(lines: &[Vec<Span>]) -> Result<String> {
    let width = 2.0 * MARGIN as f64 + COLUMN * COLUMNS as f64;
    let height = 2 * MARGIN + LINE * lines.len();
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width:.0}\" height=\"{height}\" \
         viewBox=\"0 0 {width:.0} {height}\">\n\
         <style>text {{ font: 13px ui-monospace, Menlo, Consolas, 'DejaVu Sans Mono', monospace; fill: #d8dee9; \
         white-space: pre }} .bold {{ font-weight: bold; fill: #fff }} .prompt {{ fill: #8a93a3 }} \
         .dim {{ fill: #8a93a3 }} .red {{ fill: #ff7b72 }} .green {{ fill: #7ee787 }} .yellow {{ fill: #e3b341 }} \
         .cyan {{ fill: #79c0ff }}</style>\n\
         <rect width=\"100%\" height=\"100%\" rx=\"8\" fill=\"#1b1f27\"/>\n"
    );
    for (at, spans) in lines.iter().enumerate() {
        let columns: usize = spans.iter().map(|span| span.text.chars().count()).sum();
        ensure!(columns <= COLUMNS, "the picture has {COLUMNS} columns, and a line has {columns}: {spans:?}");
        let y = MARGIN + LINE * at + LINE - 4;
        let _ = write!(svg, "<text x=\"{MARGIN}\" y=\"{y}\" xml:space=\"preserve\">");
        for span in spans {
            let text = span.text.replace('&', "&amp;").replace('<', "&lt;");
            let _ = match span.class {
                "" => write!(svg, "{text}"),
                class => write!(svg, "<tspan class=\"{class}\">{text}</tspan>"),
            };
        }
        svg.push_str("</text>\n");
    }
    Ok(svg + "</svg>\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn colours_become_spans() {
        let span = |text: &str, class| Span { text: text.into(), class };
        let line = "a \x1b[31mred\x1b[m b \x1b[1;32mgreen\x1b[0m\x1b[K";
        assert_eq!(spans(line), [span("a ", ""), span("red", "red"), span(" b ", ""), span("green", "green")]);
    }

    #[test]
    fn only_times_and_ids_are_normalized() {
        let text = "y=\"30\">web1  0f1e2d3c4b  12 s ago, 0.54 s; 2 hosts, 2 systems, deadline</text>";
        let same = "y=\"30\">web1  a1b2c3d4e5   1 s ago, 11.1 s; 2 hosts, 2 systems, deadline</text>";
        let other = text.replace("2 hosts", "3 hosts");
        assert_eq!(normalized(text), normalized(same));
        assert_ne!(normalized(text), normalized(&other));
        assert!(normalized(text).ends_with("2 hosts, 2 systems, deadline</text>"), "{}", normalized(text));
    }
}
