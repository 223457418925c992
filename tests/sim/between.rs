//! What happens to the process between two moments of a test.

use super::keeper::{Keeper, PARTITION};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Between {
    Nothing,
    Restart,
    /// A restart that finds no checkpoint.
    CheckpointsLost,
}

pub const ALL: [Between; 3] = [Between::Nothing, Between::Restart, Between::CheckpointsLost];

impl Between {
    pub fn happen(self, keeper: &mut Keeper) {
        if self != Self::Nothing {
            keeper.kill();
            if self == Self::CheckpointsLost {
                keeper.jobs.remove_checkpoints(PARTITION);
            }
            keeper.start();
            let rot = keeper.report.as_ref().and_then(|report| report.rot.clone());
            assert_eq!(rot, None, "{self:?}: nothing is damaged");
        }
    }
}
