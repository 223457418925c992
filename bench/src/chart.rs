//! Charts as SVG, written by hand: lines over an axis, with marks of what happened when. Plain
//! text that a browser and a review of a change can both read; the same points make the same bytes.

use std::fmt::Write;
use std::path::PathBuf;

use clap::Args;
use serde_json::Value;

/// Examples for `--help`.
pub const EXAMPLES: &str = "\
Examples:
  chronosdb-bench chart --data runs.jsonl --svg batch.svg --x batch --y events_per_s --log-x \\
      --title 'Durable publishes' --x-title 'events a batch' --y-title 'events/s'
      a line of runs.jsonl is what a command printed with --json; scripts/charts.sh draws them all";

const WIDTH: f64 = 860.0;
const HEIGHT: f64 = 430.0;
const LEFT: f64 = 80.0;
const RIGHT: f64 = 24.0;
const TOP: f64 = 64.0;
const BOTTOM: f64 = 74.0;
const COLORS: [&str; 6] = ["#1f6feb", "#d1242f", "#8250df", "#1a7f37", "#bf8700", "#57606a"];

/// Options of `chart`.
#[derive(Args, Clone, Debug)]
pub struct ChartArgs {
    /// Objects of JSON, one a line
    #[arg(long, value_name = "FILE")]
    pub data: PathBuf,

    /// Where to write the chart
    #[arg(long, value_name = "FILE")]
    pub svg: PathBuf,

    /// Field along the chart
    #[arg(long, value_name = "FIELD")]
    pub x: String,

    /// Fields up the chart, a line each
    #[arg(long, value_name = "FIELD", required = true)]
    pub y: Vec<String>,

    /// Above the chart
    #[arg(long, value_name = "TEXT")]
    pub title: String,

    /// Below the title: the machine, the commit
    #[arg(long, value_name = "TEXT", default_value = "")]
    pub note: String,

    /// Below the chart
    #[arg(long, value_name = "TEXT", default_value = "")]
    pub x_title: String,

    /// Beside the chart
    #[arg(long, value_name = "TEXT", default_value = "")]
    pub y_title: String,

    /// Each step along is a multiple
    #[arg(long)]
    pub log_x: bool,

    /// Each step up is a multiple
    #[arg(long)]
    pub log_y: bool,
}

/// Draws one chart; 0 errors, or why it can't.
pub fn run(args: ChartArgs) -> Result<u64, String> {
    let text = std::fs::read_to_string(&args.data)
        .map_err(|error| format!("{}: {error}", args.data.display()))?;
    let mut chart = Chart {
        title: args.title,
        note: args.note,
        x: Axis { title: args.x_title, log: args.log_x },
        y: Axis { title: args.y_title, log: args.log_y },
        lines: args.y.iter().map(|name| Line { name: name.clone(), ..Line::default() }).collect(),
        marks: Vec::new(),
    };
    for line in text.lines().filter(|line| !line.trim().is_empty()) {
        let run: Value = serde_json::from_str(line).map_err(|error| format!("{error}: {line}"))?;
        let field =
            |name: &str| run[name].as_f64().ok_or_else(|| format!("no number {name} in {line}"));
        let x = field(&args.x)?;
        for (line, name) in chart.lines.iter_mut().zip(&args.y) {
            line.points.push((x, field(name)?));
        }
    }
    chart.write(&args.svg)
}

/// What is drawn.
#[derive(Clone, Debug, Default)]
pub struct Chart {
    /// Above it.
    pub title: String,
    /// Below the title.
    pub note: String,
    /// Along.
    pub x: Axis,
    /// Up.
    pub y: Axis,
    /// What is shown.
    pub lines: Vec<Line>,
    /// What happened at which `x`.
    pub marks: Vec<Mark>,
}

/// An axis.
#[derive(Clone, Debug, Default)]
pub struct Axis {
    /// What it counts, with its unit.
    pub title: String,
    /// Each step is a multiple of the one before.
    pub log: bool,
}

/// A line through points.
#[derive(Clone, Debug, Default)]
pub struct Line {
    /// In the legend.
    pub name: String,
    /// In the order in which they are joined.
    pub points: Vec<(f64, f64)>,
}

/// Something that happened, drawn at the foot of the chart.
#[derive(Clone, Debug)]
pub struct Mark {
    /// When.
    pub x: f64,
    /// What; marks of one kind share a row, and kinds come in the order of their names.
    pub kind: &'static str,
}

/// From values to places between `from` and `to`.
struct Scale {
    log: bool,
    low: f64,
    high: f64,
    from: f64,
    to: f64,
}

impl Scale {
    fn new(axis: &Axis, values: impl Iterator<Item = f64> + Clone, from: f64, to: f64) -> Self {
        let log = axis.log;
        let used = values.filter(|value| value.is_finite() && (!log || *value > 0.0));
        let (mut low, mut high) =
            used.fold((f64::MAX, f64::MIN), |(low, high), v| (low.min(v), high.max(v)));
        if low > high {
            (low, high) = (1.0, 10.0);
        }
        if log {
            (low, high) = (10_f64.powf(low.log10().floor()), 10_f64.powf(high.log10().ceil()));
            high = high.max(low * 10.0);
        } else {
            low = low.min(0.0);
            let step = step(high - low);
            high = (high / step).ceil().max(1.0) * step;
        }
        Self { log, low, high, from, to }
    }

    fn place(&self, value: f64) -> f64 {
        let share = if self.log {
            let value = value.max(self.low);
            (value / self.low).log10() / (self.high / self.low).log10()
        } else {
            (value - self.low) / (self.high - self.low)
        };
        self.from + share.clamp(0.0, 1.0) * (self.to - self.from)
    }

    fn ticks(&self) -> Vec<f64> {
        if self.log {
            let decades = (self.high / self.low).log10().round() as i32;
            return (0..=decades).map(|decade| self.low * 10_f64.powi(decade)).collect();
        }
        let step = step(self.high - self.low);
        let count = ((self.high - self.low) / step).round() as u32;
        (0..=count).map(|number| self.low + f64::from(number) * step).collect()
    }
}

/// A round number that divides a range into four to ten.
fn step(range: f64) -> f64 {
    let power = 10_f64.powf((range.max(1e-9) / 4.0).log10().floor());
    [5.0, 2.0].iter().map(|by| by * power).find(|s| range / s >= 4.0).unwrap_or(power)
}

/// A number as short as it can be told.
pub fn short(value: f64) -> String {
    let (value, unit) = match value.abs() {
        v if v >= 1e6 => (value / 1e6, "M"),
        v if v >= 1e3 => (value / 1e3, "K"),
        _ => (value, ""),
    };
    let digits = format!("{value:.2}");
    format!("{}{unit}", digits.trim_end_matches('0').trim_end_matches('.'))
}

/// Text as XML takes it.
fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

impl Chart {
    /// Draws it into a file; 0 errors, or why it can't.
    pub fn write(&self, path: &std::path::Path) -> Result<u64, String> {
        let failed = |error: std::io::Error| format!("{}: {error}", path.display());
        if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
            std::fs::create_dir_all(folder).map_err(failed)?;
        }
        std::fs::write(path, self.svg()).map_err(failed)?;
        println!("wrote {}", path.display());
        Ok(0)
    }

    /// The chart.
    pub fn svg(&self) -> String {
        let points = || self.lines.iter().flat_map(|line| line.points.iter().copied());
        let at = self.marks.iter().map(|mark| mark.x);
        let x = Scale::new(&self.x, points().map(|p| p.0).chain(at), LEFT, WIDTH - RIGHT);
        let y = Scale::new(&self.y, points().map(|p| p.1), HEIGHT - BOTTOM, TOP);
        let mut out = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" \
             font-family=\"sans-serif\" font-size=\"12\">\n\
             <rect width=\"{WIDTH}\" height=\"{HEIGHT}\" fill=\"#ffffff\"/>\n"
        );
        text(&mut out, LEFT, 22.0, "start", "font-size=\"16\"", &self.title);
        // A long one would leave the picture.
        let size = if self.note.len() > 110 { 10 } else { 12 };
        let look = format!("fill=\"#57606a\" font-size=\"{size}\"");
        text(&mut out, LEFT, 40.0, "start", &look, &self.note);
        self.axes(&mut out, &x, &y);
        for (number, line) in self.lines.iter().enumerate() {
            let color = COLORS[number % COLORS.len()];
            draw(&mut out, line, color, &x, &y);
            let place = TOP - 8.0;
            let along = LEFT + 10.0 + 130.0 * number as f64;
            let _ = writeln!(
                out,
                "<rect x=\"{along:.1}\" y=\"{:.1}\" width=\"14\" height=\"3\" fill=\"{color}\"/>",
                place - 5.0
            );
            text(&mut out, along + 20.0, place, "start", "", &line.name);
        }
        self.draw_marks(&mut out, &x);
        out += "</svg>\n";
        out
    }

    fn axes(&self, out: &mut String, x: &Scale, y: &Scale) {
        for tick in y.ticks() {
            let place = y.place(tick);
            let _ = writeln!(
                out,
                "<path d=\"M{LEFT} {place:.1}H{:.1}\" stroke=\"#d0d7de\"/>",
                WIDTH - RIGHT
            );
            text(out, LEFT - 8.0, place + 4.0, "end", "", &short(tick));
        }
        for tick in x.ticks() {
            let place = x.place(tick);
            let (foot, end) = (HEIGHT - BOTTOM, HEIGHT - BOTTOM + 4.0);
            let _ = writeln!(out, "<path d=\"M{place:.1} {foot}V{end}\" stroke=\"#57606a\"/>");
            text(out, place, HEIGHT - BOTTOM + 18.0, "middle", "", &short(tick));
        }
        let middle = (LEFT + WIDTH - RIGHT) / 2.0;
        text(out, middle, HEIGHT - BOTTOM + 36.0, "middle", "", &self.x.title);
        let middle = (TOP + HEIGHT - BOTTOM) / 2.0;
        let turned = format!("transform=\"rotate(-90 20 {middle})\"");
        text(out, 20.0, middle, "middle", &turned, &self.y.title);
    }

    /// A row of ticks for each kind, named below the chart.
    fn draw_marks(&self, out: &mut String, x: &Scale) {
        let mut kinds: Vec<&str> = self.marks.iter().map(|mark| mark.kind).collect();
        kinds.sort_unstable();
        kinds.dedup();
        for (row, kind) in kinds.iter().enumerate() {
            let color = COLORS[(COLORS.len() - 1 - row) % COLORS.len()];
            let top = TOP + 4.0 + 9.0 * row as f64;
            let marks = self.marks.iter().filter(|mark| mark.kind == *kind);
            let count = marks.clone().count();
            for mark in marks {
                let place = x.place(mark.x);
                let _ = writeln!(
                    out,
                    "<path d=\"M{place:.1} {top:.1}v7\" stroke=\"{color}\" stroke-width=\"2\"/>"
                );
            }
            let (along, foot) = (LEFT + 150.0 * row as f64, HEIGHT - 12.0);
            let fill = format!("fill=\"{color}\"");
            text(out, along, foot, "start", &fill, &format!("| {kind} ({count})"));
        }
    }
}

fn text(out: &mut String, x: f64, y: f64, anchor: &str, more: &str, text: &str) {
    if !text.is_empty() {
        let text = escaped(text);
        let _ = writeln!(
            out,
            "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\" {more}>{text}</text>"
        );
    }
}

fn draw(out: &mut String, line: &Line, color: &str, x: &Scale, y: &Scale) {
    let place = |(a, b): &(f64, f64)| format!("{:.1},{:.1}", x.place(*a), y.place(*b));
    let points: Vec<String> = line.points.iter().map(place).collect();
    let _ = writeln!(
        out,
        "<polyline points=\"{}\" fill=\"none\" stroke=\"{color}\" stroke-width=\"1.6\"/>",
        points.join(" ")
    );
    // Dots tell few points from a curve.
    if points.len() <= 20 {
        for (a, b) in &line.points {
            let (a, b) = (x.place(*a), y.place(*b));
            let _ = writeln!(out, "<circle cx=\"{a:.1}\" cy=\"{b:.1}\" r=\"3\" fill=\"{color}\"/>");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_and_ticks_are_round_and_inside() {
        let linear = Scale::new(&Axis::default(), [3.0, 870.0].into_iter(), 0.0, 100.0);
        assert_eq!(linear.ticks(), [0.0, 200.0, 400.0, 600.0, 800.0, 1000.0]);
        assert!((linear.place(500.0) - 50.0).abs() < 1e-9);
        let axis = Axis { log: true, ..Axis::default() };
        let log = Scale::new(&axis, [0.0, 2.0, 5_000.0].into_iter(), 0.0, 100.0);
        assert_eq!(log.ticks().len(), 5, "{:?}", log.ticks());
        assert!((log.place(100.0) - 50.0).abs() < 1e-9);
        assert!((0.0..=100.0).contains(&log.place(0.0)), "no logarithm, but a place");
    }

    #[test]
    fn a_chart_without_points_is_a_chart() {
        let mark = Mark { x: 3.0, kind: "checkpoint" };
        let chart = Chart { title: "a < b".into(), marks: vec![mark], ..Chart::default() };
        let svg = chart.svg();
        assert!(svg.starts_with("<svg") && svg.ends_with("</svg>\n"));
        assert!(svg.contains("a &lt; b") && svg.contains("| checkpoint (1)"), "{svg}");
        assert!(!svg.contains("NaN"), "{svg}");
        assert_eq!((short(1_500_000.0), short(20.0)), ("1.5M".into(), "20".into()));
    }
}
