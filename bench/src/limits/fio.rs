//! A second opinion on durable writes, where fio is installed.

use std::process::Command;

use serde_json::Value;

use super::{Figures, LimitsArgs};

const WHAT: &str = "durable direct write, 4 KiB, by fio";

/// Has fio make the same writes as our own probe.
pub fn measure(args: &LimitsArgs, figures: &mut Figures) {
    match ask(args) {
        Ok((p50_us, p99_us, per_s)) => {
            figures.tell(&format!("{WHAT}, p50"), p50_us, "us", "fio_durable_write_4k_p50_us");
            figures.tell(&format!("{WHAT}, p99"), p99_us, "us", "fio_durable_write_4k_p99_us");
            figures.tell(&format!("{WHAT}, rate"), per_s, "/s", "fio_durable_write_4k_per_s");
        }
        Err(why) => println!("{WHAT:<44}    skipped: {why}"),
    }
}

fn ask(args: &LimitsArgs) -> Result<(f64, f64, f64), String> {
    let path = args.dir.join(format!("limits-{}.fio", std::process::id()));
    let output = Command::new("fio")
        .args(["--name=durable", "--rw=write", "--bs=4k", "--ioengine=psync", "--direct=1"])
        .args(["--sync=dsync", "--overwrite=1", "--size=16m", "--time_based"])
        .args(["--output-format=json"])
        .arg(format!("--runtime={}ms", args.each.as_millis()))
        .arg(format!("--filename={}", path.display()))
        .output()
        .map_err(|_| "fio is not installed".to_owned());
    // Whatever became of it.
    let _ = std::fs::remove_file(&path);
    let output = output?;
    let parsed: Value = serde_json::from_slice(&output.stdout)
        .map_err(|_| String::from_utf8_lossy(&output.stderr).trim().to_owned())?;
    let write = &parsed["jobs"][0]["write"];
    let percentile = |name: &str| write["clat_ns"]["percentile"][name].as_f64();
    let found = (percentile("50.000000"), percentile("99.000000"), write["iops"].as_f64());
    let (Some(p50), Some(p99), Some(per_s)) = found else {
        return Err("fio told no latencies".to_owned());
    };
    Ok((p50 / 1e3, p99 / 1e3, per_s))
}
