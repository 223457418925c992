//! Asks a running server where a copy of its data directory would end now.
//!
//! What comes back is bounded and compared with the data directory before a file of it is opened:
//! another server's cut would cut nothing of ours.

use std::io::ErrorKind;
use std::path::Path;

use crate::base::limits::BACKUP_TEXT_BYTES;
use crate::cli::http::{Ask, exchange};
use crate::control::backup::{CutAnswer, PATH, PartitionCut, Refusal, VERSION, identity};

/// The cut of the directory `data`, which has so many partitions, from the server whose HTTP
/// listener is `address`. An error is one sentence that says what to do.
pub fn ask(address: &str, data: &Path, partitions: u16) -> Result<CutAnswer, String> {
    let (status, body) = get(address)?;
    let answer = read_answer(status, &body, address)?;
    let own =
        identity(data).map_err(|error| format!("cannot look at {}: {error}", data.display()))?;
    if answer.identity != own {
        return Err(format!(
            "the server at {address} serves {}, not {}; name the HTTP listener of the one that \
             does with --http-addr, or its directory with --data-dir",
            answer.data_dir,
            data.display()
        ));
    }
    let dense = answer.partitions.iter().map(|cut| cut.partition).eq(0..partitions);
    let whole = |cut: &PartitionCut| !cut.segments.is_empty();
    if !dense || !answer.partitions.iter().all(whole) {
        return Err(format!(
            "the server at {address} does not name the log of each of {partitions} partitions: it \
             is of another version; run the `chronosdb backup` of that"
        ));
    }
    Ok(answer)
}

fn read_answer(status: u16, body: &[u8], address: &str) -> Result<CutAnswer, String> {
    if status != 200 {
        return Err(match serde_json::from_slice::<Refusal>(body) {
            Ok(Refusal { error }) if status == 409 => format!(
                "{error}; stop the server, and the backup copies the damage as it is, or see \
                 `chronosdb log verify`"
            ),
            Ok(Refusal { error }) => format!("no backup now: {error}; try again"),
            Err(_) => format!(
                "{address} answers {PATH} with status {status}: name the HTTP listener of a \
                 server of this version with --http-addr"
            ),
        });
    }
    let other = |why: String| {
        format!("the answer of {address} is not understood ({why}); run the backup of its version")
    };
    let value: serde_json::Value =
        serde_json::from_slice(body).map_err(|error| other(error.to_string()))?;
    if value["version"] != VERSION {
        return Err(other(format!("version {} instead of {VERSION}", value["version"])));
    }
    serde_json::from_value(value).map_err(|error| other(error.to_string()))
}

/// Status and body of [`PATH`].
fn get(address: &str) -> Result<(u16, Vec<u8>), String> {
    let limit = BACKUP_TEXT_BYTES as u64;
    let ask = Ask { method: "GET", address, path: PATH, body: "", limit };
    exchange(&ask).map_err(|error| match error.kind() {
        ErrorKind::ConnectionRefused => format!(
            "the data directory is in use, and no server listens on {address}; name its HTTP \
             listener with --http-addr"
        ),
        ErrorKind::InvalidData => {
            format!("{address} does not speak HTTP as expected; it is on port 8080 by default")
        }
        _ => format!("cannot ask {address}: {error}; name the HTTP listener with --http-addr"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_say_what_to_do() {
        let refusal =
            |status, body: &str| read_answer(status, body.as_bytes(), "h:1").expect_err("refused");
        let why = refusal(409, "{\"error\":\"partition 3 is damaged\"}");
        assert!(why.starts_with("partition 3 is damaged; stop the server"), "{why}");
        assert!(refusal(503, "{\"error\":\"x\"}").ends_with("x; try again"));
        assert!(refusal(404, "nothing").contains("--http-addr"));
        assert!(refusal(200, "{\"version\":2}").contains("version 2 instead of 1"));
        assert!(refusal(200, "{\"version\":1}").contains("data_dir"));
    }
}
