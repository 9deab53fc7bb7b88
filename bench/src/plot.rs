//! Charts as small SVG files, for light and dark pages.
//!
//! Invariant: a chart has its own background, so that its text is readable on any page. Nothing is
//! drawn outside the frame, because the axes follow from the values.

use std::fmt::Write;

const WIDTH: f64 = 720.0;
const HEIGHT: f64 = 400.0;
/// The frame around the values.
const LEFT: f64 = 72.0;
const RIGHT: f64 = WIDTH - 24.0;
const TOP: f64 = 94.0;
const BOTTOM: f64 = HEIGHT - 60.0;
/// Distinct in grey as well, and visible on both backgrounds.
const COLORS: [&str; 3] = ["#8b949e", "#2f81f7", "#e8710a"];
const STYLE: &str = "<style>.b{fill:#fff}.g{stroke:#d8dee4}text{fill:#24292f}\
.a{stroke:#24292f}text{font:13px sans-serif}.h{font-size:16px;font-weight:600}\
@media(prefers-color-scheme:dark){.b{fill:#0d1117}.g{stroke:#30363d}text{fill:#e6edf3}\
.a{stroke:#e6edf3}}</style>";

/// How ticks are placed on the x-axis.
#[derive(Clone, Copy)]
pub(crate) enum Scale {
    /// By the logarithms of their values; lines join the points.
    Log,
    /// At equal distances; the points are bars.
    Names,
}

/// A chart: each series has one point per tick.
pub(crate) struct Chart<'a> {
    pub(crate) title: &'a str,
    pub(crate) x_title: &'a str,
    pub(crate) y_title: &'a str,
    pub(crate) scale: Scale,
    /// The labels of the ticks, and their values on a logarithmic scale.
    pub(crate) ticks: Vec<(String, f64)>,
    pub(crate) series: Vec<(String, Vec<Point>)>,
}

/// A median and its range.
#[derive(Clone, Copy)]
pub(crate) struct Point {
    pub(crate) median: f64,
    pub(crate) min: f64,
    pub(crate) max: f64,
}

impl Chart<'_> {
    /// The content of the file.
    pub(crate) fn svg(&self) -> String {
        let complete = |(_, points): &(String, Vec<Point>)| points.len() == self.ticks.len();
        assert!(self.series.iter().all(complete), "each series has one point per tick");
        let values = self.series.iter().flat_map(|(_, points)| points);
        let step = step(values.map(|point| point.max).fold(0.0, f64::max));
        let top = step.0 * f64::from(step.1);
        let y = |value: f64| BOTTOM - value / top * (BOTTOM - TOP);
        let mut out = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" \
             width=\"{WIDTH}\" height=\"{HEIGHT}\" role=\"img\">\n<title>{}</title>{STYLE}\n\
             <rect class=\"b\" width=\"100%\" height=\"100%\"/>\n",
            escaped(self.title)
        );
        text(&mut out, (LEFT, 26.0), "start\" class=\"h", self.title);
        for line in 0..=step.1 {
            let value = step.0 * f64::from(line);
            let (at, class) = (y(value), if line == 0 { "a" } else { "g" });
            let _ = writeln!(
                out,
                "<path class=\"{class}\" d=\"M{LEFT} {at:.1}H{RIGHT}\" fill=\"none\"/>"
            );
            text(&mut out, (LEFT - 8.0, at + 4.0), "end", &short(value));
        }
        for (tick, (name, _)) in self.ticks.iter().enumerate() {
            text(&mut out, (self.x(tick), BOTTOM + 20.0), "middle", name);
        }
        text(&mut out, (f64::midpoint(LEFT, RIGHT), HEIGHT - 14.0), "middle", self.x_title);
        text(&mut out, (16.0, TOP - 16.0), "start", self.y_title);
        for (number, (name, points)) in self.series.iter().enumerate() {
            self.draw(&mut out, number, points, &y);
            let at = LEFT + 16.0 + number as f64 * 190.0;
            let color = COLORS[number % COLORS.len()];
            let _ = writeln!(
                out,
                "<rect x=\"{at}\" y=\"44\" width=\"12\" height=\"12\" fill=\"{color}\"/>"
            );
            text(&mut out, (at + 18.0, 55.0), "start", name);
        }
        out + "</svg>\n"
    }

    /// The x-coordinate of a tick.
    fn x(&self, tick: usize) -> f64 {
        let width = RIGHT - LEFT;
        match self.scale {
            Scale::Names => LEFT + width * (tick as f64 + 0.5) / self.ticks.len() as f64,
            Scale::Log => {
                let logs = || self.ticks.iter().map(|(_, value)| value.ln());
                let (low, high) =
                    (logs().fold(f64::MAX, f64::min), logs().fold(f64::MIN, f64::max));
                let share = (self.ticks[tick].1.ln() - low) / (high - low).max(f64::MIN_POSITIVE);
                LEFT + width * (0.08 + 0.84 * share)
            }
        }
    }

    /// Draws bars or a line, each point with its range.
    fn draw(&self, out: &mut String, number: usize, points: &[Point], y: &dyn Fn(f64) -> f64) {
        let color = COLORS[number % COLORS.len()];
        let all = self.series.len() as f64;
        let slot = 0.7 * (RIGHT - LEFT) / self.ticks.len() as f64 / all;
        let mut line = String::new();
        for (tick, point) in points.iter().enumerate() {
            let (mut x, at) = (self.x(tick), y(point.median));
            let range = match self.scale {
                Scale::Log => {
                    let _ = write!(line, "{}{x:.1} {at:.1}", if tick == 0 { 'M' } else { 'L' });
                    let dot = format!("cx=\"{x:.1}\" cy=\"{at:.1}\" r=\"4\"");
                    let _ = writeln!(out, "<circle {dot} fill=\"{color}\"/>");
                    format!("stroke=\"{color}\"")
                }
                Scale::Names => {
                    x += slot * (number as f64 + 0.5 - all / 2.0);
                    let (left, width, height) = (x - 0.45 * slot, 0.9 * slot, BOTTOM - at);
                    let bar = format!("x=\"{left:.1}\" y=\"{at:.1}\" width=\"{width:.1}\"");
                    let _ = writeln!(out, "<rect {bar} height=\"{height:.1}\" fill=\"{color}\"/>");
                    "class=\"a\"".to_owned()
                }
            };
            let (min, max) = (y(point.min), y(point.max));
            let _ = writeln!(out, "<path {range} d=\"M{x:.1} {min:.1}V{max:.1}\" fill=\"none\"/>");
        }
        if !line.is_empty() {
            let line = format!("d=\"{line}\" stroke=\"{color}\" stroke-width=\"2\"");
            let _ = writeln!(out, "<path {line} fill=\"none\"/>");
        }
    }
}

fn text(out: &mut String, (x, y): (f64, f64), anchor: &str, what: &str) {
    let what = escaped(what);
    let _ = writeln!(out, "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\">{what}</text>");
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;")
}

/// A round step between grid lines, and how many steps reach `max`.
fn step(max: f64) -> (f64, u32) {
    let max = max.max(1.0);
    let ten = 10.0_f64.powf((max / 5.0).log10().floor());
    let fits = |step: &f64| max / step <= 5.0;
    let step = [1.0, 2.0, 5.0].map(|n| n * ten).into_iter().find(fits).unwrap_or(10.0 * ten);
    (step, (max / step).ceil() as u32)
}

/// The label of a value on the y-axis.
fn short(value: f64) -> String {
    match value {
        _ if value >= 1e6 => format!("{} M", value / 1e6),
        _ if value >= 1e3 => format!("{} k", value / 1e3),
        _ => format!("{value}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chart(scale: Scale, values: [f64; 2]) -> String {
        let point = |median: f64| Point { median, min: median * 0.9, max: median * 1.1 };
        let ticks = vec![("10 k".to_owned(), 1e4), ("1 M".to_owned(), 1e6)];
        let series = vec![("a < b & c".to_owned(), values.map(point).to_vec())];
        Chart { title: "T", x_title: "x", y_title: "y", scale, ticks, series }.svg()
    }

    /// The values of an attribute, in order.
    fn numbers(svg: &str, attribute: &str) -> Vec<f64> {
        let start = format!(" {attribute}=\"");
        let parts = svg.split(&start).skip(1);
        parts.filter_map(|part| part.split('"').next()?.parse().ok()).collect()
    }

    #[test]
    fn larger_values_are_higher_and_within_the_frame() {
        for (low, high) in [(1.0, 2.0), (9.0e5, 1.0e6), (0.0, 1.0), (123.0, 98_765.0)] {
            let lines = chart(Scale::Log, [low, high]);
            let (x, y) = (numbers(&lines, "cx"), numbers(&lines, "cy"));
            assert!(x[0] < x[1] && y[0] > y[1], "{x:?} {y:?}");
            assert!(y.iter().all(|y| (TOP..=BOTTOM).contains(y)), "{y:?}");
            assert!(x.iter().all(|x| (LEFT..=RIGHT).contains(x)), "{x:?}");
            let bars = chart(Scale::Names, [low, high]);
            // Without the background and the legend.
            let heights = numbers(&bars, "height");
            let heights = &heights[1..heights.len() - 1];
            assert!(heights[0] < heights[1] && heights[1] <= BOTTOM - TOP, "{heights:?}");
        }
    }

    #[test]
    fn names_are_escaped() {
        assert!(chart(Scale::Log, [1.0, 2.0]).contains(">a &lt; b &amp; c</text>"));
    }

    #[test]
    fn grid_steps_are_round_and_reach_the_maximum() {
        for max in [0.0, 1.0, 7.0, 99.0, 100.0, 726_445.0, 1_000_001.0] {
            let (step, lines) = step(max);
            assert!(step * f64::from(lines) >= max && (1..=5).contains(&lines), "{max}: {step}");
        }
        assert_eq!(step(726_445.0), (200_000.0, 4));
        assert_eq!(
            (short(200_000.0), short(2e6), short(0.0)),
            ("200 k".into(), "2 M".into(), "0".into())
        );
    }
}
