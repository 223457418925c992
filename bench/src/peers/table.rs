//! The table of a run over several servers, with ratios to the first ChronosDB in it.

use std::fmt::Write;

use serde_json::Value;

const COLUMNS: [(&str, &str); 3] = [
    ("single_per_s", "singles, 64 connections"),
    ("batch_per_s", "batches of 1,000, 4 connections"),
    ("deliver_per_s", "deliver + ack of a backlog"),
];

/// Markdown of the lines that `peer --results` wrote; a line may also be
/// `{"peer": NAME, "skipped": WHY}`. Of several lines of a peer, the medians. Rates are events a
/// second; what ChronosDB does of it in parentheses, as a multiple.
pub fn markdown(lines: &str) -> Result<String, String> {
    let parse =
        |line: &str| serde_json::from_str::<Value>(line).map_err(|e| format!("{e}: {line}"));
    let rows = medians(&lines.lines().map(parse).collect::<Result<Vec<Value>, String>>()?);
    let own = rows.iter().find(|row| row["peer"] == "chronosdb");
    let mut out = String::from("| server |");
    for (_, title) in COLUMNS {
        let _ = write!(out, " {title} |");
    }
    out += " p50 / p99 of a single |\n|---|---:|---:|---:|---:|\n";
    for row in &rows {
        let name = row["peer"].as_str().unwrap_or("?");
        if let Some(why) = row["skipped"].as_str() {
            let _ = writeln!(out, "| {name} | skipped: {why} | | | |");
            continue;
        }
        let _ = write!(out, "| {name} |");
        for (key, _) in COLUMNS {
            let rate = row[key].as_f64().unwrap_or(0.0);
            let ratio = own.and_then(|own| own[key].as_f64()).map(|own| own / rate.max(1.0));
            let ratio = ratio.filter(|_| name != "chronosdb");
            let ratio = ratio.map_or_else(String::new, |ratio| format!(" ({ratio:.1}x)"));
            let _ = write!(out, " {}{ratio} |", thousands(rate as u64));
        }
        let us = |key: &str| row[key].as_u64().unwrap_or(0);
        let (p50, p99) = (us("single_p50_us"), us("single_p99_us"));
        let _ = writeln!(out, " {} / {} us |", thousands(p50), thousands(p99));
    }
    Ok(out)
}

/// A row for each peer, in the order in which they come first.
fn medians(rows: &[Value]) -> Vec<Value> {
    let mut merged: Vec<Value> = Vec::new();
    for row in rows {
        let same = |other: &&Value| other["peer"] == row["peer"];
        if merged.iter().any(|row| same(&row)) {
            continue;
        }
        let all: Vec<&Value> = rows.iter().filter(same).collect();
        // One that failed in a round has failed.
        let mut median =
            (*all.iter().find(|row| row["skipped"].is_string()).unwrap_or(&row)).clone();
        for (key, value) in median.as_object_mut().into_iter().flatten() {
            let mut values: Vec<f64> = all.iter().filter_map(|row| row[key].as_f64()).collect();
            if !values.is_empty() {
                values.sort_by(f64::total_cmp);
                *value = (values[values.len() / 2].round() as u64).into();
            }
        }
        merged.push(median);
    }
    merged
}

/// 1234567 as 1,234,567.
fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ratios_are_multiples_of_the_peer() {
        let lines = concat!(
            r#"{"peer":"redis-stream","single_per_s":1000,"batch_per_s":2500,"#,
            r#""deliver_per_s":10,"single_p50_us":5,"single_p99_us":1234}"#,
            "\n",
            r#"{"peer":"chronosdb","single_per_s":2000,"batch_per_s":1000000,"deliver_per_s":5}"#,
            "\n",
            r#"{"peer":"nats","skipped":"not installed"}"#,
        );
        let table = markdown(lines).expect("a table");
        let row = "| redis-stream | 1,000 (2.0x) | 2,500 (400.0x) | 10 (0.5x) | 5 / 1,234 us |";
        assert!(table.contains(row), "{table}");
        assert!(table.contains("| chronosdb | 2,000 | 1,000,000 | 5 |"), "{table}");
        assert!(table.contains("| nats | skipped: not installed | | | |"), "{table}");
        assert!(markdown("no json").is_err());
    }

    #[test]
    fn rounds_become_their_medians() {
        let line = |rate: u32| format!("{{\"peer\":\"chronosdb\",\"single_per_s\":{rate}}}\n");
        let lines = line(10) + &line(3_000) + &line(200) + r#"{"peer":"x","skipped":"why"}"#;
        let table = markdown(&lines).expect("a table");
        assert!(table.contains("| chronosdb | 200 |"), "{table}");
        assert_eq!(table.lines().count(), 4, "{table}");
    }
}
