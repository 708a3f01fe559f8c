//! The results as a table and a plot, and the comparison with earlier results.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result};
use deptool_tests::build;

/// A ratio that exceeds the baseline by this factor is reported.
const WORSE: f64 = 1.25;
const BEGIN: &str = "<!-- BEGIN BENCH: written by 'cargo xtask bench --save' -->\n";
const PLOT: &str = "![The medians on one scale](measurements.svg)";
const END: &str = "<!-- END BENCH -->\n";

/// Whose time a row shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Whose {
    Ours,
    /// A baseline.
    Floor,
    /// Another tool that does the same.
    Peer,
}

/// The target for a row.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Aim {
    None,
    /// At most this many times the floor.
    Times(f64),
    /// At most this much above the floor.
    Above(Duration),
    /// At most this long.
    Within(Duration),
}

/// A row of the table.
#[derive(Debug, Clone, Copy)]
pub struct Row {
    pub name: &'static str,
    pub whose: Whose,
    /// The row that it is compared with.
    pub floor: Option<&'static str>,
    pub aim: Aim,
}

impl Row {
    pub const fn floor(name: &'static str) -> Row {
        Row { name, whose: Whose::Floor, floor: None, aim: Aim::None }
    }

    pub const fn ours(name: &'static str, floor: &Row, aim: Aim) -> Row {
        Row { name, whose: Whose::Ours, floor: Some(floor.name), aim }
    }

    pub const fn peer(name: &'static str, floor: &Row) -> Row {
        Row { name, whose: Whose::Peer, floor: Some(floor.name), aim: Aim::None }
    }
}

/// A number that is not a time.
#[derive(Debug)]
struct Fact {
    name: String,
    value: String,
    aim: &'static str,
}

/// All results.
#[derive(Debug, Default)]
pub struct Table {
    rows: Vec<(Row, Vec<Duration>)>,
    facts: Vec<Fact>,
    notes: Vec<String>,
}

impl Table {
    /// Adds a measurement of a row.
    pub fn add(&mut self, row: Row, took: Duration) {
        match self.rows.iter_mut().find(|(known, _)| known.name == row.name) {
            Some((_, all)) => all.push(took),
            None => self.rows.push((row, vec![took])),
        }
    }

    pub fn fact(&mut self, name: impl Into<String>, value: impl Into<String>, aim: &'static str) {
        self.facts.push(Fact { name: name.into(), value: value.into(), aim });
    }

    /// Adds a line below the table.
    pub fn note(&mut self, text: impl Into<String>) {
        self.notes.push(text.into());
    }

    fn median(&self, name: &str) -> Option<Duration> {
        let mut all = self.rows.iter().find(|(row, _)| row.name == name)?.1.clone();
        all.sort();
        all.get(all.len() / 2).copied()
    }

    /// Its median, and the ratio to the median of its floor.
    fn result(&self, row: &Row) -> (Duration, Option<f64>) {
        let median = self.median(row.name).unwrap_or_default();
        let floor = row.floor.and_then(|floor| self.median(floor));
        (median, floor.map(|floor| median.as_secs_f64() / floor.as_secs_f64().max(f64::EPSILON)))
    }

    pub fn markdown(&self) -> String {
        let mut text = String::from("| | ratio | median | aim |\n| --- | ---: | ---: | ---: |\n");
        for (row, _) in &self.rows {
            let (median, ratio) = self.result(row);
            let ratio = match (row.whose, ratio) {
                (Whose::Floor, _) => "1".to_owned(),
                (_, Some(ratio)) => format!("{ratio:.2}"),
                (_, None) => String::new(),
            };
            let _ = writeln!(text, "| {} | {ratio} | {} | {} |", row.name, time(median), aim(row.aim));
        }
        text.push_str("\n| | | aim |\n| --- | ---: | ---: |\n");
        for fact in &self.facts {
            let _ = writeln!(text, "| {} | {} | {} |", fact.name, fact.value, fact.aim);
        }
        for note in &self.notes {
            let _ = write!(text, "\n{note}\n");
        }
        text
    }

    fn ratios(&self) -> BTreeMap<String, f64> {
        let ratio = |row: &Row| Some((row.name.to_owned(), (self.result(row).1? * 100.0).round() / 100.0));
        self.rows.iter().filter(|(row, _)| row.whose == Whose::Ours).filter_map(|(row, _)| ratio(row)).collect()
    }

    /// Bars on a logarithmic scale from 1 ms to 1000 s.
    fn plot(&self) -> String {
        const LEFT: f64 = 330.0;
        const DECADE: f64 = 75.0;
        const HEIGHT: f64 = 18.0;
        let height = HEIGHT * (self.rows.len() as f64 + 2.0);
        let mut svg = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"880\" height=\"{height}\" font-family=\"sans-serif\" \
             font-size=\"12\">\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n"
        );
        for (decade, label) in ["1 ms", "10 ms", "100 ms", "1 s", "10 s", "100 s"].iter().enumerate() {
            let x = LEFT + DECADE * decade as f64;
            let _ = writeln!(svg, "<path d=\"M{x} 4V{}\" stroke=\"#ddd\"/>", height - HEIGHT);
            let _ = writeln!(svg, "<text x=\"{x}\" y=\"{}\" fill=\"#666\">{label}</text>", height - 5.0);
        }
        for (at, (row, _)) in self.rows.iter().enumerate() {
            let (median, _) = self.result(row);
            let y = HEIGHT * (at as f64 + 0.5);
            let width = (DECADE * (median.as_secs_f64() * 1000.0).max(1.0).log10()).max(1.0);
            let colour = match row.whose {
                Whose::Ours => "#2a6fbb",
                Whose::Floor => "#bbbbbb",
                Whose::Peer => "#d9822b",
            };
            let name = row.name.replace('`', "").replace('&', "&amp;").replace('<', "&lt;");
            let (text, bar) = (y + 10.0, y + 1.0);
            let _ = writeln!(svg, "<text x=\"{}\" y=\"{text}\" text-anchor=\"end\">{name}</text>", LEFT - 8.0);
            let _ =
                writeln!(svg, "<rect x=\"{LEFT}\" y=\"{bar}\" width=\"{width:.1}\" height=\"11\" fill=\"{colour}\"/>");
            let _ = writeln!(svg, "<text x=\"{:.1}\" y=\"{text}\">{}</text>", LEFT + width + 5.0, time(median));
        }
        svg + "</svg>\n"
    }
}

fn aim(aim: Aim) -> String {
    match aim {
        Aim::None => String::new(),
        Aim::Times(times) => format!("≤ {times}"),
        Aim::Above(above) => format!("≤ floor + {}", time(above)),
        Aim::Within(within) => format!("≤ {}", time(within)),
    }
}

fn time(took: Duration) -> String {
    let ms = took.as_secs_f64() * 1000.0;
    match ms {
        ..10.0 => format!("{ms:.1} ms"),
        ..1000.0 => format!("{ms:.0} ms"),
        _ => format!("{:.1} s", ms / 1000.0),
    }
}

fn baseline() -> PathBuf {
    build::workspace().join("tests/bench/baseline.json")
}

/// Prints what has become slower than in the baseline.
pub fn compare(table: &Table) -> Result<()> {
    let Ok(text) = std::fs::read(baseline()) else { return Ok(()) };
    let before: BTreeMap<String, f64> = serde_json::from_slice(&text).context("baseline.json is not one")?;
    for (name, now) in table.ratios() {
        match before.get(&name) {
            Some(was) if now > was * WORSE => println!("slower than the baseline: {name}: {now:.2}, was {was:.2}"),
            _ => {}
        }
    }
    Ok(())
}

/// Makes these results the baseline, and writes table and plot to doc/measurements.
pub fn save(table: &Table) -> Result<()> {
    std::fs::write(baseline(), serde_json::to_string_pretty(&table.ratios())? + "\n")?;
    let doc = build::workspace().join("doc");
    std::fs::write(doc.join("measurements.svg"), table.plot())?;
    let page = doc.join("measurements.md");
    let text = std::fs::read_to_string(&page)?;
    std::fs::write(&page, with_table(&text, &table.markdown())?)?;
    println!("written: doc/measurements.md, doc/measurements.svg, tests/bench/baseline.json");
    Ok(())
}

/// Replaces the table in a page.
fn with_table(page: &str, table: &str) -> Result<String> {
    let (before, rest) = page.split_once(BEGIN).context("doc/measurements.md has no place for the table")?;
    let (_, after) = rest.split_once(END).context("doc/measurements.md has no end of the table")?;
    Ok(format!("{before}{BEGIN}{table}\n{PLOT}\n{END}{after}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SSH: Row = Row::floor("ssh");
    const PUSH: Row = Row::ours("push", &SSH, Aim::Times(1.1));

    #[test]
    fn a_ratio_is_that_of_the_medians() {
        let mut table = Table::default();
        for (ssh, push) in [(10, 11), (1000, 30), (20, 900)] {
            table.add(SSH, Duration::from_millis(ssh));
            table.add(PUSH, Duration::from_millis(push));
        }
        assert_eq!(table.ratios(), BTreeMap::from([("push".to_owned(), 1.5)]));
        assert!(table.markdown().contains("| push | 1.50 | 30 ms | ≤ 1.1 |"), "{}", table.markdown());
        assert!(table.plot().contains("30 ms</text>"));
    }

    #[test]
    fn the_page_has_a_place_for_the_table() {
        let page = std::fs::read_to_string(build::workspace().join("doc/measurements.md")).unwrap();
        let saved = with_table(&page, "| a | b |\n").unwrap();
        assert!(saved.contains("| a | b |\n\n![The medians"), "{saved}");
        assert_eq!(with_table(&saved, "| a | b |\n").unwrap(), saved);
    }
}
