//! A generated file of posts, and the cost of counting it with each program.
//!
//! Invariant: there are no figures unless all programs agree on the counts.

use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::measure::{Cost, Rates, measure};
use crate::paths::Paths;
use crate::sums::Sums;

/// A program to measure, in the order of a round.
#[derive(Clone, Copy)]
pub(crate) enum Program {
    Baseline,
    Tagflow { workers: u8 },
}

impl Program {
    pub(crate) const ALL: [Self; 3] =
        [Self::Baseline, Self::Tagflow { workers: 1 }, Self::Tagflow { workers: 2 }];

    pub(crate) fn name(self) -> String {
        match self {
            Self::Baseline => "baseline, one thread".to_owned(),
            Self::Tagflow { workers: 1 } => "tagflow, 1 worker".to_owned(),
            Self::Tagflow { workers } => format!("tagflow, {workers} workers"),
        }
    }
}

/// How posts are generated.
#[derive(Clone, Copy, PartialEq)]
pub(crate) struct Shape {
    pub(crate) tags_mean: u32,
    pub(crate) vocabulary: u32,
    pub(crate) zipf: f64,
    /// The share of posts whose first tag is always the same.
    pub(crate) hot_tag: f64,
}

impl Shape {
    /// The workload that has performance goals.
    pub(crate) const W1: Self =
        Self { tags_mean: 7, vocabulary: 1_000_000, zipf: 1.05, hot_tag: 0.0 };

    /// The command that generates posts to `out`.
    pub(crate) fn generate(&self, tagflow: &Path, posts: u64, out: &Path) -> Command {
        let Self { tags_mean, vocabulary, zipf, hot_tag } = self;
        let words = format!(
            "generate --force --seed 1 --duplicates 0.02 --posts {posts} --tags-mean {tags_mean} \
             --vocabulary {vocabulary} --zipf {zipf} --hot-tag {hot_tag} --out"
        );
        let mut command = Command::new(tagflow);
        command.args(words.split(' ')).arg(out);
        command
    }
}

/// A workload and its results.
pub(crate) struct Workload {
    pub(crate) input: PathBuf,
    posts: u64,
    /// Whether the file is kept.
    kept: bool,
    /// What the first run counted.
    pub(crate) sums: Option<Sums>,
    costs: [Vec<Cost>; Program::ALL.len()],
}

impl Drop for Workload {
    fn drop(&mut self) {
        if !self.kept {
            // If it cannot be removed, it only takes space.
            let _ = fs::remove_file(&self.input);
        }
    }
}

impl Workload {
    /// W1, whose file is kept for the next time.
    pub(crate) fn w1(paths: &Paths, posts: u64) -> Result<Self, Box<dyn Error>> {
        Self::new(paths, "w1", &Shape::W1, posts, true)
    }

    /// Posts of a shape; the file is removed afterwards unless the shape is W1.
    pub(crate) fn shaped(
        paths: &Paths,
        name: &str,
        shape: &Shape,
        posts: u64,
    ) -> Result<Self, Box<dyn Error>> {
        if *shape == Shape::W1 {
            return Self::w1(paths, posts);
        }
        Self::new(paths, &format!("shape-{name}"), shape, posts, false)
    }

    /// Generates the file if it does not exist.
    fn new(
        paths: &Paths,
        name: &str,
        shape: &Shape,
        posts: u64,
        kept: bool,
    ) -> Result<Self, Box<dyn Error>> {
        let input = paths.data.join(format!("{name}-{posts}.ndjson"));
        let workload = Self { input, posts, kept, sums: None, costs: Default::default() };
        if !workload.input.is_file() {
            fs::create_dir_all(&paths.data)?;
            eprintln!("generating {}", workload.input.display());
            // Renamed when complete, so that a partial file is never used.
            let partial = workload.input.with_extension("partial");
            measure(&mut shape.generate(&paths.tagflow, posts, &partial))?;
            fs::rename(partial, &workload.input)?;
        }
        Ok(workload)
    }

    /// Runs every program once. Programs run in turn, so that a slow period of the machine affects
    /// them all.
    pub(crate) fn round(&mut self, paths: &Paths) -> Result<(), Box<dyn Error>> {
        for (program, costs) in Program::ALL.into_iter().zip(&mut self.costs) {
            let (sums, cost) = run(paths, &self.input, program)?;
            let name = program.name();
            eprintln!("{name:<20} {:6.2} s", cost.seconds);
            costs.push(cost);
            let first = self.sums.get_or_insert_with(|| sums.clone());
            if *first != sums {
                return Err(format!("{name} counted {sums:?}, the baseline {first:?}").into());
            }
        }
        Ok(())
    }

    /// The rates of each program, the baseline first.
    pub(crate) fn rates(&self) -> Result<Vec<Rates>, Box<dyn Error>> {
        self.costs.iter().map(|costs| Rates::of(self.posts, costs)).collect()
    }
}

fn run(paths: &Paths, input: &Path, program: Program) -> Result<(Sums, Cost), Box<dyn Error>> {
    let Program::Tagflow { workers } = program else {
        let (out, cost) = measure(Command::new(&paths.this).arg("--baseline").arg(input))?;
        return Ok((serde_json::from_str(&out)?, cost));
    };
    let state = paths.fresh_state()?;
    let mut command = Command::new(&paths.tagflow);
    command.args(["run", "--bounded", "--workers", &workers.to_string(), "--input"]);
    let (_, cost) = measure(command.arg(input).arg("--state").arg(&state))?;
    let sums = Sums::of_state(&paths.tagflow, &state)?;
    fs::remove_dir_all(state)?;
    Ok((sums, cost))
}
