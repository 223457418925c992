//! Moments as people write them: `now`, `+5m`, `-1h`, RFC 3339, or Unix milliseconds.

use std::str::FromStr;

use jiff::{SpanRelativeTo, Timestamp, Zoned};

/// A number below this is taken for seconds written by mistake: as ms it is in 1973 or before.
const PLAUSIBLE_MS: u64 = 100_000_000_000;

/// How a moment is written, for error messages.
const FORMS: &str = "a time is written like now, +5m, -1h30m, 2026-12-24T18:00:00Z, or as Unix ms";

/// A moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum When {
    /// So many ms from now; negative is in the past.
    Relative(i64),
    /// Unix ms.
    Absolute(u64),
}

impl When {
    /// As Unix ms, given what the clock says; nothing is before 1970.
    #[must_use]
    pub fn unix_ms(self, now_ms: u64) -> u64 {
        match self {
            Self::Relative(ms) => now_ms.saturating_add_signed(ms),
            Self::Absolute(ms) => ms,
        }
    }
}

impl FromStr for When {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let text = text.trim();
        if text == "now" {
            return Ok(Self::Relative(0));
        }
        if let Some(ahead) = text.strip_prefix('+') {
            return duration_ms(ahead).map(Self::Relative);
        }
        if let Some(ago) = text.strip_prefix('-') {
            return duration_ms(ago).map(|ms| Self::Relative(-ms));
        }
        if text.bytes().all(|byte| byte.is_ascii_digit()) && !text.is_empty() {
            return match text.parse() {
                Ok(ms) if ms < PLAUSIBLE_MS => {
                    Err(format!("{text} looks like seconds; write milliseconds: {text}000"))
                }
                Ok(ms) => Ok(Self::Absolute(ms)),
                Err(_) => Err(format!("{text} is too far ahead")),
            };
        }
        let parsed = text.parse::<Timestamp>();
        let parsed = parsed.or_else(|_| text.parse::<Zoned>().map(|zoned| zoned.timestamp()));
        let at = parsed.map_err(|_| match text.parse::<jiff::civil::DateTime>() {
            Ok(_) => format!("{text} has no time zone; add Z for UTC, or an offset like +01:00"),
            Err(_) => FORMS.to_owned(),
        })?;
        let ms = u64::try_from(at.as_millisecond());
        ms.map(Self::Absolute).map_err(|_| format!("{text} is before 1970"))
    }
}

/// Milliseconds of `5m`, `1h30m`, `500ms`, `7d`; a fraction of a millisecond is rounded up.
pub fn duration_ms(text: &str) -> Result<i64, String> {
    let fault = || "a duration is written like 500ms, 5s, 1h30m or 7d".to_owned();
    // Without a unit it would be read as a date part, or be anyone's guess.
    if !text.starts_with(|first: char| first.is_ascii_digit()) {
        return Err(fault());
    }
    let span: jiff::Span = text.parse().map_err(|_| fault())?;
    let days = SpanRelativeTo::days_are_24_hours();
    let duration = span.to_duration(days).map_err(|_| fault())?;
    let nanos = duration.as_nanos();
    i64::try_from((nanos + 999_999) / 1_000_000).map_err(|_| fault())
}

/// Unix ms as RFC 3339 in UTC with milliseconds; the bare number if it is beyond the year 9999.
#[must_use]
pub fn rfc3339(unix_ms: i64) -> String {
    match Timestamp::from_millisecond(unix_ms) {
        Ok(at) => format!("{at:.3}"),
        Err(_) => unix_ms.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn when(text: &str) -> When {
        text.parse().unwrap_or_else(|error| panic!("{text}: {error}"))
    }

    #[test]
    fn relative_times() {
        assert_eq!(when("now"), When::Relative(0));
        assert_eq!(when("+5s"), When::Relative(5_000));
        assert_eq!(when("+5m"), When::Relative(300_000));
        assert_eq!(when("+1h30m"), When::Relative(5_400_000));
        assert_eq!(when("+500ms"), When::Relative(500));
        assert_eq!(when("+1.5s"), When::Relative(1_500));
        assert_eq!(when("+7d"), When::Relative(604_800_000));
        assert_eq!(when("+1us"), When::Relative(1), "never earlier than asked for");
        assert_eq!(when("-1h"), When::Relative(-3_600_000));
        assert_eq!(when("-1h").unix_ms(5_000_000), 1_400_000);
        assert_eq!(when("-1h").unix_ms(7), 0);
    }

    #[test]
    fn absolute_times() {
        assert_eq!(when("1767225600000"), When::Absolute(1_767_225_600_000));
        assert_eq!(when("2026-01-01T00:00:00Z"), When::Absolute(1_767_225_600_000));
        assert_eq!(when("2026-01-01T01:00:00+01:00"), When::Absolute(1_767_225_600_000));
        assert_eq!(when("2026-01-01T00:00:00.25Z"), When::Absolute(1_767_225_600_250));
        assert_eq!(when("2026-01-01T01:00[Europe/Berlin]"), When::Absolute(1_767_225_600_000));
        assert_eq!(rfc3339(1_767_225_600_250), "2026-01-01T00:00:00.250Z");
        assert_eq!(rfc3339(i64::MAX), i64::MAX.to_string());
    }

    #[test]
    fn what_is_wrong_is_said() {
        let wrong = |text: &str| text.parse::<When>().expect_err(text);
        assert!(wrong("1767225600").contains("1767225600000"), "seconds are told apart");
        assert!(wrong("2026-01-01T00:00:00").contains("time zone"));
        for bad in ["", "+", "+5", "+m", "+-5s", "-", "tomorrow", "+5 parsecs", "1e12"] {
            let error = wrong(bad);
            assert!(error.contains("is written like"), "{bad}: {error}");
        }
        assert!(wrong("99999999999999999999").contains("too far"));
        assert!(wrong("1969-12-31T00:00:00Z").contains("before 1970"));
    }
}
