//! What the runs have met. A simulator whose weather is always fine proves nothing, so the test of
//! many seeds ends with a look at this.

use chronosdb::base::api::{EventOutcome, Reply};
use chronosdb::engine::jobs::JobSpec;
use chronosdb::engine::{Effect, Input, ReplicaEvent};

use super::disk::Crash;

/// How often each thing happened.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Coverage {
    pub steps: u64,
    pub events: u64,
    pub deliveries: u64,
    pub confirmed_acks: u64,
    pub dead_letters: u64,
    pub replays: u64,
    pub process_crashes: u64,
    pub power_losses: u64,
    pub drains: u64,
    pub wall_steps: u64,
    pub segments: u64,
    pub reads: u64,
    pub syncs: u64,
    pub torn_logs: u64,
    pub damaged_logs: u64,
    pub depositions: u64,
    pub duplicates: u64,
    pub refusals: u64,
    pub retries: u64,
    pub mesh_messages: u64,
    pub socket_waits: u64,
    pub flushes: u64,
    pub merges: u64,
    pub run_reads: u64,
    pub runs_removed: u64,
    /// Logs that lost their oldest segment.
    pub log_starts: u64,
    /// Starts with a log that does not reach back to its first entry; without a checkpoint.
    pub short_logs: u64,
    /// Carried runs written anew without what is past.
    pub rewrites: u64,
    pub checkpoints: u64,
    pub restores: u64,
    pub condemned: u64,
    pub id_flushes: u64,
    pub id_merges: u64,
    pub id_reads: u64,
    /// Publishes that waited for reads of ids when the leadership was lost or the process died.
    pub waiting_dropped: u64,
    /// Deaths while ids were being written or merged.
    pub id_jobs_cut: u64,
    pub low_spaces: u64,
    pub full_disks: u64,
    pub refused_low: u64,
    pub settled_low: u64,
    pub reserves_used: u64,
    pub jobs_given_up: u64,
    /// Copies of running partitions that were read.
    pub cuts: u64,
    /// Answers about topics' settings, and flushes that carry what is near for one.
    pub settings: u64,
    pub lasting: u64,
}

impl Coverage {
    pub fn input(&mut self, input: &Input) {
        match input {
            Input::Replica { event: ReplicaEvent::Deposed { .. }, .. } => self.depositions += 1,
            Input::ReadDone { .. } => self.reads += 1,
            Input::Synced { .. } => self.syncs += 1,
            Input::Mesh { .. } => self.mesh_messages += 1,
            Input::JobGivenUp { .. } => self.jobs_given_up += 1,
            _ => {}
        }
    }

    pub fn effect(&mut self, effect: &Effect) {
        match effect {
            Effect::CreateSegment { .. } => self.segments += 1,
            Effect::StartJob { job: JobSpec::Flush(spec), .. } => {
                self.flushes += 1;
                self.lasting += u64::from(!spec.lasting.is_empty());
            }
            Effect::Reply { reply: Reply::Topic(_), .. } => self.settings += 1,
            Effect::StartJob { job: JobSpec::Merge(spec), .. } => {
                self.merges += 1;
                self.rewrites += u64::from(spec.inputs.len() == 1);
            }
            Effect::SaveHardState { state, .. } => {
                self.log_starts += u64::from(state.log_start.0 > 1);
            }
            Effect::StartJob { job: JobSpec::FlushIds(_), .. } => self.id_flushes += 1,
            Effect::StartJob { job: JobSpec::MergeIds(_), .. } => self.id_merges += 1,
            Effect::ReadRun { .. } => self.run_reads += 1,
            Effect::RemoveRun { .. } => self.runs_removed += 1,
            Effect::SaveCheckpoint { .. } => self.checkpoints += 1,
            Effect::Recovered { report } => {
                self.torn_logs += u64::from(report.torn_bytes > 0);
                self.damaged_logs += u64::from(report.rot.is_some());
            }
            Effect::Deliver { deliveries, .. } => {
                let again = deliveries.iter().filter(|delivery| delivery.attempt > 1);
                self.retries += again.count() as u64;
            }
            Effect::Reply { reply: Reply::Published { outcomes, .. }, .. } => {
                for outcome in outcomes {
                    match outcome {
                        EventOutcome::Duplicate(_) => self.duplicates += 1,
                        EventOutcome::Failed(error) => {
                            self.refusals += 1;
                            self.refused_low += u64::from(error.text.contains("disk is full"));
                        }
                        EventOutcome::Stored(_) => {}
                    }
                }
            }
            _ => {}
        }
    }

    pub fn crash(&mut self, crash: Crash) {
        match crash {
            Crash::Process => self.process_crashes += 1,
            Crash::Power => self.power_losses += 1,
        }
    }

    /// Adds another run's.
    pub fn add(&mut self, other: &Self) {
        for ((_, sum), (_, count)) in self.counts().into_iter().zip(other.clone().counts()) {
            *sum += *count;
        }
    }

    /// What never happened.
    pub fn missing(&self) -> Vec<&'static str> {
        let mut all = self.clone();
        let never = all.counts().into_iter().filter(|(_, count)| **count == 0);
        never.map(|(name, _)| name).collect()
    }

    fn counts(&mut self) -> [(&'static str, &mut u64); 45] {
        [
            ("steps", &mut self.steps),
            ("events", &mut self.events),
            ("deliveries", &mut self.deliveries),
            ("confirmed acks", &mut self.confirmed_acks),
            ("replays", &mut self.replays),
            ("process crashes", &mut self.process_crashes),
            ("power losses", &mut self.power_losses),
            ("drains", &mut self.drains),
            ("wall steps", &mut self.wall_steps),
            ("segments", &mut self.segments),
            ("dead letters", &mut self.dead_letters),
            ("reads", &mut self.reads),
            ("syncs", &mut self.syncs),
            ("torn logs", &mut self.torn_logs),
            ("damaged logs", &mut self.damaged_logs),
            ("depositions", &mut self.depositions),
            ("duplicates", &mut self.duplicates),
            ("refusals", &mut self.refusals),
            ("retries", &mut self.retries),
            ("mesh messages", &mut self.mesh_messages),
            ("socket waits", &mut self.socket_waits),
            ("flushes", &mut self.flushes),
            ("merges", &mut self.merges),
            ("run reads", &mut self.run_reads),
            ("runs removed", &mut self.runs_removed),
            ("log starts moved", &mut self.log_starts),
            ("starts with a short log", &mut self.short_logs),
            ("runs written anew", &mut self.rewrites),
            ("checkpoints", &mut self.checkpoints),
            ("restores", &mut self.restores),
            ("condemned", &mut self.condemned),
            ("id flushes", &mut self.id_flushes),
            ("id merges", &mut self.id_merges),
            ("id reads", &mut self.id_reads),
            ("waiting publishes dropped", &mut self.waiting_dropped),
            ("id jobs cut", &mut self.id_jobs_cut),
            ("low spaces", &mut self.low_spaces),
            ("full disks", &mut self.full_disks),
            ("refused low", &mut self.refused_low),
            ("settled low", &mut self.settled_low),
            ("reserves used", &mut self.reserves_used),
            ("jobs given up", &mut self.jobs_given_up),
            ("cuts", &mut self.cuts),
            ("settings", &mut self.settings),
            ("lasting", &mut self.lasting),
        ]
    }
}
