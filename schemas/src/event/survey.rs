//! What the first records of an input show of its mapping.
//!
//! Invariant: it only says what is true of the records that it has seen.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use super::json::{Record, marked};
use super::{Decoder, Event, Reject};
use crate::mapping::Field;
use crate::suggest::suggest;

/// Times in January 1970 that are seconds of this century.
const SECONDS_MS: std::ops::Range<i64> = 946_684_800..2_678_400_000;

/// What has been seen of an input.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Survey {
    /// Records that are objects.
    records: u64,
    events: u64,
    /// Events in January 1970.
    early: u64,
    /// How many records have each of the names that are looked for.
    having: BTreeMap<String, u64>,
    /// Other names of the first record.
    others: BTreeSet<String>,
}

/// What is probably wrong with a mapping.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Remark {
    /// Times look like seconds.
    Seconds {
        /// The events that were looked at.
        events: u64,
        /// The name of the field in records.
        field: String,
    },
    /// No record has a field.
    Absent {
        /// The records that were looked at.
        records: u64,
        /// The name of the field in records.
        field: String,
        /// What it is mapped to.
        of: String,
        /// `; did you mean …`, or nothing.
        hint: String,
    },
}

impl Remark {
    /// The field that it is about.
    pub fn field(&self) -> &str {
        let (Self::Seconds { field, .. } | Self::Absent { field, .. }) = self;
        field
    }
}

impl fmt::Display for Remark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Seconds { events, field } => write!(
                f,
                "most of the first {events} events are dated January 1970: {field:?} looks like \
                 seconds (ts={field}:s)"
            ),
            Self::Absent { records, field, of, hint } => {
                let what =
                    if of == field { String::new() } else { format!(", which is mapped to {of}") };
                write!(f, "none of the first {records} records has a field {field:?}{what}{hint}")
            }
        }
    }
}

impl Survey {
    /// The most records that are looked at.
    pub const RECORDS_MAX: u64 = 1000;

    /// How many records it has seen.
    pub fn records(&self) -> u64 {
        self.records
    }

    /// Takes a record into account, and what `decoder` made of it.
    pub fn add(&mut self, decoder: &Decoder, record: &[u8], decoded: &Result<Event<'_>, Reject>) {
        if let Ok(event) = decoded {
            self.events += 1;
            self.early += u64::from(SECONDS_MS.contains(&event.ts_ms));
        }
        match std::str::from_utf8(record) {
            Ok(text) => self.look(decoder, text, None),
            Err(_) => {
                let (text, mark) = marked(record);
                self.look(decoder, &text, Some(mark));
            }
        }
    }

    fn look(&mut self, decoder: &Decoder, text: &str, mark: Option<char>) {
        let Ok(record) = Record::read(text, mark) else { return };
        let is_first = self.records == 0;
        self.records += 1;
        for (name, _) in record.members() {
            if decoder.names_field(&name) {
                *self.having.entry(name.into_owned()).or_insert(0) += 1;
            } else if is_first {
                self.others.insert(name.into_owned());
            }
        }
    }

    /// Adds what another reader of the same input has seen.
    pub fn merge(&mut self, other: Self) {
        self.records += other.records;
        self.events += other.events;
        self.early += other.early;
        for (name, records) in other.having {
            *self.having.entry(name).or_insert(0) += records;
        }
        self.others.extend(other.others);
    }

    /// What is probably wrong.
    pub fn remarks(&self, decoder: &Decoder) -> Vec<Remark> {
        let mut remarks = Vec::new();
        if self.early * 2 > self.events {
            let Some(field) = decoder.mapping.name(Field::Ts) else {
                unreachable!("ts is always mapped: checked by `Mapping`");
            };
            remarks.push(Remark::Seconds { events: self.events, field: field.to_owned() });
        }
        let is_absent = |name: &str| self.records > 0 && !self.having.contains_key(name);
        for (of, field) in decoder.looked_for() {
            if is_absent(&field) {
                let hint = suggest(&field, self.others.iter().map(String::as_str));
                remarks.push(Remark::Absent { records: self.records, field, of, hint });
            }
        }
        remarks
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mapping::Mapping;

    fn remarks(map: &str, attributes: &[&str], records: &[&str]) -> Vec<String> {
        let mapping = Mapping::parse(map, attributes).unwrap();
        let owned: Vec<String> = attributes.iter().map(|a| (*a).to_owned()).collect();
        let decoder = Decoder::new(mapping, &owned);
        let mut whole = Survey::default();
        for record in records {
            let mut part = Survey::default();
            part.add(&decoder, record.as_bytes(), &decoder.decode(record.as_bytes()));
            whole.merge(part);
        }
        whole.remarks(&decoder).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn seconds_are_told_from_milliseconds() {
        let at = |ts: &str| format!(r##"{{"event_id":"a","ts":{ts},"caption":"#b"}}"##);
        let (seconds, millis, old) = (at("1767254400"), at("1767254400000"), at("1000"));
        let told = [
            "most of the first 3 events are dated January 1970: \"ts\" looks like seconds (ts=ts:s)",
        ];
        assert_eq!(remarks("", &[], &[&seconds, &seconds, &millis]), told);
        assert_eq!(remarks("", &[], &[&seconds, &millis]), Vec::<String>::new());
        assert_eq!(remarks("ts=ts:s", &[], &[&seconds]), Vec::<String>::new());
        assert_eq!(remarks("", &[], &[&old]), Vec::<String>::new(), "times of tests");
        assert_eq!(remarks("", &[], &[]), Vec::<String>::new());
    }

    #[test]
    fn field_that_no_record_has_is_told() {
        let record = r##"{"event_id":"a","ts":1767254400000,"text":"#b","Region":"eu"}"##;
        assert_eq!(
            remarks("caption=test", &["region"], &[record]),
            [
                "none of the first 1 records has a field \"test\", which is mapped to caption; did you mean \"text\"?",
                "none of the first 1 records has a field \"region\"; did you mean \"Region\"?",
            ]
        );
        let with = r#"{"event_id":"a","ts":1767254400000,"test":null,"region":[]}"#;
        assert_eq!(remarks("caption=test", &["region"], &[record, with]), Vec::<String>::new());
        assert_eq!(remarks("caption=text", &[], &[record]), Vec::<String>::new());
        assert_eq!(remarks("caption=text,type=kind,user_id=by", &[], &[record]).len(), 2);
        assert_eq!(remarks("caption=", &[], &[record]), Vec::<String>::new());
    }
}
