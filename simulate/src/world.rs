//! Everything that a simulation consists of: the jobs, the disk, the store, the log and a reader.

use std::collections::BTreeMap;
use std::sync::Arc;

use dataflow::Status;
use dataflow::lockstep::Lockstep;
use recount::{Reader, Rules};
use schemas::manifest::{Header, Manifest};
use schemas::mapping::Mapping;
use sinks::commits::Follower;

use crate::checks::{HORIZON_MS, RecordPosition, Refused};
use crate::clock::Time;
use crate::disk::PowerDisk;
use crate::events::Producer;
use crate::log::Topic;
use crate::outcome::Outcome;
use crate::plan::Plan;
use crate::process::{Probe, Process};
use crate::promotions::Promotions;
use crate::requests::{CorrectionRequest, RedeliveryRequest};
use crate::wire::{Faults, Wire};

/// The regions with a scope of their own.
const REGIONS: [&str; 2] = ["us", "eu"];

/// A running job.
pub(crate) struct Job {
    pub(crate) lockstep: Lockstep,
    pub(crate) process: Arc<Process>,
}

/// Everything that a simulation consists of.
pub(crate) struct World<'p> {
    pub(crate) plan: &'p Plan,
    pub(crate) reader: Reader,
    pub(crate) scopes: Vec<(String, Vec<String>)>,
    pub(crate) time: Time,
    pub(crate) topic: Topic,
    pub(crate) producer: Producer,
    pub(crate) disk: Arc<PowerDisk>,
    pub(crate) wire: Wire,
    pub(crate) probe: Arc<Probe>,
    pub(crate) job: Option<Job>,
    /// The workers of the last job.
    pub(crate) workers: usize,
    /// Jobs that another one has taken over from, but that are not aware of it yet.
    pub(crate) zombies: Vec<Job>,
    pub(crate) follower: Follower,
    /// The newest commit that the reader has seen.
    pub(crate) seen: Option<Header>,
    /// The newest generation with a recounted commit.
    pub(crate) generation: u64,
    /// How far off the slowest and the fastest clock have been so far.
    pub(crate) clocks_off_ms: (i64, i64),
    /// The statuses of all jobs so far.
    pub(crate) statuses: Vec<Arc<Status>>,
    /// Every manifest that exists or has existed.
    pub(crate) manifests: BTreeMap<u64, Manifest>,
    /// The commit of each version.
    pub(crate) versions: BTreeMap<i64, u64>,
    pub(crate) correction: Option<CorrectionRequest>,
    /// Requested redeliveries, by the position of the refused record.
    pub(crate) redeliveries: BTreeMap<RecordPosition, RedeliveryRequest>,
    pub(crate) promotions: Promotions,
    pub(crate) outcome: Outcome,
}

impl<'p> World<'p> {
    pub(crate) fn new(plan: &'p Plan) -> Self {
        let disk = Arc::new(PowerDisk::default());
        let probe = Arc::new(Probe::default());
        let follower = Follower::new(Arc::clone(&disk) as _);
        let [wire, new] = [0, 1].map(|i| Wire::new(Faults::default(), plan.seed ^ i << 60));
        Self {
            plan,
            reader: Reader::new(&Mapping::default(), &["region".to_owned()]),
            scopes: vec![("region".to_owned(), REGIONS.map(str::to_owned).to_vec())],
            time: Time::default(),
            topic: Topic::default(),
            producer: Producer::default(),
            disk,
            promotions: Promotions::new(wire.clone(), new),
            wire,
            probe,
            job: None,
            workers: 0,
            zombies: Vec::new(),
            follower,
            seen: None,
            generation: 0,
            clocks_off_ms: (0, 0),
            statuses: Vec::new(),
            manifests: BTreeMap::new(),
            versions: BTreeMap::new(),
            correction: None,
            redeliveries: BTreeMap::new(),
            outcome: Outcome::default(),
        }
    }

    /// Counts a fault that has struck.
    pub(crate) fn count(&mut self, fault: &'static str) {
        *self.outcome.faults.entry(fault).or_default() += 1;
    }

    /// Ends all faults of clock and connections.
    pub(crate) fn calm(&mut self) {
        self.time.jump(0);
        let faults = Faults::default();
        self.promotions.wires().iter().for_each(|wire| wire.line().faults = faults);
    }

    /// The rules of a recount.
    pub(crate) fn rules<'r>(&'r self, refused: &'r Refused) -> Rules<'r> {
        Rules {
            reader: &self.reader,
            scopes: &self.scopes,
            horizon_ms: Some(HORIZON_MS),
            count_beyond: self.plan.count_beyond,
            until_ms: i64::MAX,
            refused: Some(refused),
        }
    }
}
