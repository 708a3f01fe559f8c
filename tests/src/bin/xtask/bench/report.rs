//! The results as a table and a plot, and the comparison with earlier results.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result};
use deptool_tests::build;

/// A ratio that exceeds the baseline by this factor is reported.
const WORSE: f64 = 1.25;
/// The lines around a part of doc/measurements.md.
type Section = (&'static str, &'static str);
const BENCH: Section = ("<!-- BEGIN BENCH: written by 'cargo xtask bench --save' -->\n", "<!-- END BENCH -->\n");
const SCALE: Section = ("<!-- BEGIN SCALE: written by 'cargo xtask bench --save' -->\n", "<!-- END SCALE -->\n");
const PLOT: &str = "![The medians on one scale](measurements.svg)";

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

/// One measurement.
#[derive(Debug, Clone, Copy)]
pub struct Sample {
    pub took: Duration,
    /// The processor time of all processes on this side, and on local roots.
    pub used: Option<Duration>,
}

impl From<Duration> for Sample {
    fn from(took: Duration) -> Sample {
        Sample { took, used: None }
    }
}

impl std::ops::Add for Sample {
    type Output = Sample;

    fn add(self, other: Sample) -> Sample {
        let used = self.used.zip(other.used).map(|(one, another)| one + another);
        Sample { took: self.took + other.took, used }
    }
}

/// All results.
#[derive(Debug, Default)]
pub struct Table {
    rows: Vec<(Row, Vec<Sample>)>,
    facts: Vec<Fact>,
    notes: Vec<String>,
}

impl Table {
    /// Adds a measurement of a row.
    pub fn add(&mut self, row: Row, sample: impl Into<Sample>) {
        let sample = sample.into();
        match self.rows.iter_mut().find(|(known, _)| known.name == row.name) {
            Some((_, all)) => all.push(sample),
            None => self.rows.push((row, vec![sample])),
        }
    }

    pub fn fact(&mut self, name: impl Into<String>, value: impl Into<String>, aim: &'static str) {
        self.facts.push(Fact { name: name.into(), value: value.into(), aim });
    }

    /// Adds a line below the table.
    pub fn note(&mut self, text: impl Into<String>) {
        self.notes.push(text.into());
    }

    fn samples(&self, name: &str) -> &[Sample] {
        self.rows.iter().find(|(row, _)| row.name == name).map_or(&[], |(_, all)| all)
    }

    /// How long the measurements of a row took.
    fn spread(&self, name: &str) -> Spread {
        Spread::of(self.samples(name).iter().map(|sample| sample.took))
    }

    /// The median of a row, and its ratio to the median of the row's floor.
    fn result(&self, row: &Row) -> (Duration, Option<f64>) {
        let median = self.spread(row.name).median;
        let floor = row.floor.map(|floor| self.spread(floor).median);
        (median, floor.map(|floor| median.as_secs_f64() / floor.as_secs_f64().max(f64::EPSILON)))
    }

    pub fn markdown(&self) -> String {
        let mut text = String::from(
            "| | ratio | minimum | median | maximum | processor | aim |\n| --- | ---: | ---: | ---: | ---: | ---: | ---: |\n",
        );
        for (row, samples) in &self.rows {
            let ratio = match (row.whose, self.result(row).1) {
                (Whose::Floor, _) => "1".to_owned(),
                (_, Some(ratio)) => format!("{ratio:.2}"),
                (_, None) => String::new(),
            };
            let Spread { minimum, median, maximum } = self.spread(row.name);
            let used: Vec<Duration> = samples.iter().filter_map(|sample| sample.used).collect();
            let used = if used.is_empty() { String::new() } else { time(Spread::of(used).median) };
            let times = [minimum, median, maximum].map(time).join(" | ");
            let _ = writeln!(text, "| {} | {ratio} | {times} | {used} | {} |", row.name, aim(row.aim));
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

/// The range of some times.
#[derive(Debug, Clone, Copy, Default)]
struct Spread {
    minimum: Duration,
    median: Duration,
    maximum: Duration,
}

impl Spread {
    fn of(times: impl IntoIterator<Item = Duration>) -> Spread {
        let mut all: Vec<Duration> = times.into_iter().collect();
        all.sort();
        let at = |index: usize| all.get(index).copied().unwrap_or_default();
        Spread { minimum: at(0), median: at(all.len() / 2), maximum: at(all.len().saturating_sub(1)) }
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
    std::fs::write(build::workspace().join("doc/measurements.svg"), table.plot())?;
    save_section(&BENCH, &format!("{}\n{PLOT}\n", table.markdown()))?;
    println!("written: doc/measurements.md, doc/measurements.svg, tests/bench/baseline.json");
    Ok(())
}

/// Writes the table of many hosts to doc/measurements.
pub fn save_scale(table: &str) -> Result<()> {
    save_section(&SCALE, table)?;
    println!("written: doc/measurements.md: many hosts");
    Ok(())
}

fn save_section(section: &Section, text: &str) -> Result<()> {
    let page = build::workspace().join("doc/measurements.md");
    Ok(std::fs::write(&page, with_section(&std::fs::read_to_string(&page)?, section, text)?)?)
}

/// Replaces a section of a page.
fn with_section(page: &str, (begin, end): &Section, text: &str) -> Result<String> {
    let (before, rest) = page.split_once(begin).with_context(|| format!("doc/measurements.md has no '{begin}'"))?;
    let (_, after) = rest.split_once(end).with_context(|| format!("doc/measurements.md has no '{end}'"))?;
    Ok(format!("{before}{begin}{text}{end}{after}"))
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
            table.add(PUSH, Sample { took: Duration::from_millis(push), used: Some(Duration::from_millis(push / 2)) });
        }
        assert_eq!(table.ratios(), BTreeMap::from([("push".to_owned(), 1.5)]));
        let row = "| push | 1.50 | 11 ms | 30 ms | 900 ms | 15 ms | ≤ 1.1 |";
        assert!(table.markdown().contains(row), "{}", table.markdown());
        assert!(table.plot().contains("30 ms</text>"));
    }

    #[test]
    fn the_page_has_a_place_for_each_table() {
        let page = std::fs::read_to_string(build::workspace().join("doc/measurements.md")).unwrap();
        for section in [BENCH, SCALE] {
            let saved = with_section(&page, &section, "| a | b |\n").unwrap();
            assert!(saved.contains(&format!("| a | b |\n{}", section.1)), "{saved}");
            assert_eq!(with_section(&saved, &section, "| a | b |\n").unwrap(), saved);
        }
    }
}
