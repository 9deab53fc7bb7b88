//! How speed depends on the load: tags per post, the number of different tags, and the skew of
//! their popularity. Everything else is as in W1.
//!
//! Each axis has three shapes; the others are compared with the middle one. They run in turn, so
//! that a slow period of the machine affects them all.

use std::error::Error;
use std::fs;
use std::path::Path;

use crate::paths::Paths;
use crate::plot::{Chart, Point, Scale};
use crate::workload::{Program, Shape, Workload};

const W1: Shape = Shape::W1;

struct Axis {
    /// The name of its chart file.
    name: &'static str,
    title: &'static str,
    /// What is on the x-axis.
    unit: &'static str,
    scale: Scale,
    /// The label, x-value and shape of each tick.
    shapes: [(&'static str, f64, Shape); 3],
}

const AXES: [Axis; 3] = [
    Axis {
        name: "tags",
        title: "Speed over tags a post",
        unit: "tags a post, mean (logarithmic)",
        scale: Scale::Log,
        shapes: [
            ("2", 2.0, Shape { tags_mean: 2, ..W1 }),
            ("8", 8.0, Shape { tags_mean: 8, ..W1 }),
            ("20", 20.0, Shape { tags_mean: 20, ..W1 }),
        ],
    },
    Axis {
        name: "vocabulary",
        title: "Speed over the size of the vocabulary",
        unit: "tags to choose from (logarithmic)",
        scale: Scale::Log,
        shapes: [
            ("10 k", 1e4, Shape { vocabulary: 10_000, ..W1 }),
            ("1 M", 1e6, W1),
            ("20 M", 2e7, Shape { vocabulary: 20_000_000, ..W1 }),
        ],
    },
    Axis {
        name: "skew",
        title: "Speed over how evenly tags are used",
        unit: "popularity of tags",
        scale: Scale::Names,
        shapes: [
            ("all alike", 0.0, Shape { zipf: 0.0, ..W1 }),
            ("Zipf 1.05", 1.0, W1),
            ("Zipf 1.05, one tag in 90 % of posts", 2.0, Shape { hot_tag: 0.9, ..W1 }),
        ],
    },
];

/// Measures every axis; prints its table and draws its chart into the folder `plots`.
pub(crate) fn run(
    paths: &Paths,
    (posts, runs): (u64, u64),
    plots: &Path,
) -> Result<(), Box<dyn Error>> {
    fs::create_dir_all(plots)?;
    let cores = std::thread::available_parallelism()?;
    println!("{posts} posts of each shape, {runs} runs of each program, {cores} cores");
    for axis in &AXES {
        let mut workloads = Vec::new();
        for (number, (_, _, shape)) in axis.shapes.iter().enumerate() {
            let name = format!("{}-{number}", axis.name);
            workloads.push(Workload::shaped(paths, &name, shape, posts)?);
        }
        for run in 1..=runs {
            for (workload, (at, ..)) in workloads.iter_mut().zip(&axis.shapes) {
                eprintln!("run {run}/{runs}, {}: {at}", axis.name);
                workload.round(paths)?;
            }
        }
        axis.print(&workloads)?;
        let file = plots.join(format!("{}.svg", axis.name));
        fs::write(&file, axis.chart(&workloads)?.svg())?;
        eprintln!("written: {}", file.display());
    }
    Ok(())
}

impl Axis {
    fn print(&self, workloads: &[Workload]) -> Result<(), Box<dyn Error>> {
        let Self { title, unit, shapes, .. } = self;
        println!("\n{title}\n");
        println!(
            "| {unit} | different tags | uses a post | program | posts/s (median) | min | max \
             | peak MiB | speed / baseline | speed / middle |"
        );
        println!("| --- | ---: | ---: | --- | ---: | ---: | ---: | ---: | ---: | ---: |");
        let middle = workloads[1].rates()?;
        for (workload, (at, ..)) in workloads.iter().zip(shapes) {
            let sums = workload.sums.as_ref().ok_or("nothing was counted")?;
            let (rates, uses) = (workload.rates()?, sums.total as f64 / sums.events as f64);
            for ((rate, middle), program) in rates.iter().zip(&middle).zip(Program::ALL) {
                println!(
                    "| {at} | {} | {uses:.2} | {} | {rate} | {:.2} | {:.2} |",
                    sums.keys,
                    program.name(),
                    rate.median / rates[0].median,
                    rate.median / middle.median,
                );
            }
        }
        Ok(())
    }

    fn chart(&self, workloads: &[Workload]) -> Result<Chart<'static>, Box<dyn Error>> {
        let mut series: Vec<(String, Vec<Point>)> =
            Program::ALL.map(|program| (program.name(), Vec::new())).to_vec();
        for workload in workloads {
            for ((_, points), rate) in series.iter_mut().zip(workload.rates()?) {
                points.push(Point { median: rate.median, min: rate.min, max: rate.max });
            }
        }
        Ok(Chart {
            title: self.title,
            x_title: self.unit,
            y_title: "posts/s: the median, and a line from the least to the most",
            scale: self.scale,
            ticks: self.shapes.iter().map(|(at, x, _)| ((*at).to_owned(), *x)).collect(),
            series,
        })
    }
}
