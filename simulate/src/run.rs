//! Runs a plan, from an empty disk to the end.

use dataflow::Work;

use crate::checks::Violation;
use crate::outcome::{Outcome, STORE_FAULTS};
use crate::plan::Plan;
use crate::rng::Rng;
use crate::world::World;

/// Runs a plan to its end, or to the first check that fails.
pub fn run(plan: &Plan) -> Outcome {
    let mut world = World::new(plan);
    let ended = world.run();
    let mut outcome = std::mem::take(&mut world.outcome);
    outcome.violation = ended.err();
    outcome.trace = world.probe.seen().trace;
    for (fault, struck) in STORE_FAULTS.iter().zip(world.wire.line().struck) {
        *outcome.faults.entry(fault).or_default() += struck;
    }
    outcome.faults.append(&mut world.probe.seen().struck);
    for work in world.statuses.iter().map(|status| status.work()) {
        let Work { cold_reads, evicted, board_scans } = work;
        for (name, n) in
            [("cold read", cold_reads), ("tag evicted", evicted), ("board scan", board_scans)]
        {
            *outcome.work.entry(name).or_default() += n;
        }
    }
    outcome.work.insert("full call to the store", world.wire.line().full_calls);
    outcome
}

impl World<'_> {
    /// Carries out all actions, with turns of the jobs between them.
    fn run(&mut self) -> Result<(), Violation> {
        for action in &self.plan.actions {
            let mut rng = Rng(action.seed);
            for _ in 0..action.steps {
                self.step(&mut rng)?;
            }
            self.act(action, &mut rng)?;
        }
        self.drain(&mut Rng(self.plan.seed ^ 0x5eed))
    }
}
