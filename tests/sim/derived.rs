//! Effects on what is derived from the log: jobs, runs, checkpoints.

use chronosdb::engine::Effect;
use chronosdb::engine::jobs::Job;

use super::world::{Event, World};
use crate::hold;

impl World {
    /// Carries out an effect on derived files.
    pub fn carry_out_derived(&mut self, effect: Effect) {
        match effect {
            Effect::StartJob { partition, job } => {
                self.jobs.start(partition, Job::new(job));
                self.after(1, Event::Job(partition));
            }
            Effect::ReadRun { partition, read, run, position, len } => {
                let delay_us = 1 + self.disk_rng.below(self.profile.disk_max_us);
                self.after(delay_us, Event::RunRead { partition, read, run, position, len });
            }
            Effect::RemoveRun { partition, run } => self.jobs.remove(partition, run),
            Effect::SaveCheckpoint { partition, number, bytes } => {
                self.jobs.save(partition, number, bytes);
                let delay_us = 1 + self.disk_rng.below(self.profile.disk_max_us);
                self.after(delay_us, Event::Checkpoint(partition));
            }
            Effect::RemoveCheckpoint { partition, number } => {
                self.jobs.remove_checkpoint(partition, number);
            }
            Effect::Condemn { partition, text } => {
                self.note(format_args!("condemned: {text}"));
                hold!(DiskContract, self.profile.run_damage > 0, "{partition}: {text}");
                self.jobs.renew(partition, &self.disk);
                // The process dies of it, and the effects behind it are not carried out any more.
                self.coverage.condemned += 1;
            }
            other => unreachable!("not derived: {other:?}"),
        }
    }
}
