//! TensorBoard event files, read by a reader of the test's own: bitwise CRCs, protobuf by hand.

use nepa::run::tensorboard::{EventFile, rewrite, scalars_of};
use serde_json::{Map, Value, json};

/// CRC-32C bit by bit, as its definition has it.
fn crc(data: &[u8]) -> u32 {
    let mut crc = !0u32;
    for byte in data {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = if crc & 1 == 1 { crc >> 1 ^ 0x82f6_3b78 } else { crc >> 1 };
        }
    }
    !crc
}

fn masked(data: &[u8]) -> u32 {
    let crc = crc(data);
    crc.rotate_left(17).wrapping_add(0xa282_ead8)
}

fn u32_at(data: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(data[at..at + 4].try_into().unwrap())
}

/// The contents of the records; both CRCs of each must fit.
fn records(mut data: &[u8]) -> Vec<Vec<u8>> {
    let mut all = Vec::new();
    while !data.is_empty() {
        let length = u64::from_le_bytes(data[..8].try_into().unwrap()) as usize;
        assert_eq!(u32_at(data, 8), masked(&data[..8]), "CRC of the length");
        let content = &data[12..12 + length];
        assert_eq!(u32_at(data, 12 + length), masked(content), "CRC of the content");
        all.push(content.to_vec());
        data = &data[16 + length..];
    }
    all
}

fn varint(data: &mut &[u8]) -> u64 {
    let (mut value, mut shift) = (0, 0);
    loop {
        let byte = data[0];
        *data = &data[1..];
        value |= u64::from(byte & 0x7f) << shift;
        shift += 7;
        if byte < 0x80 {
            return value;
        }
    }
}

/// A message's fields: number, and the bytes of its value (a varint as 8).
fn fields(mut data: &[u8]) -> Vec<(u64, Vec<u8>)> {
    let mut all = Vec::new();
    while !data.is_empty() {
        let key = varint(&mut data);
        let value = match key & 7 {
            0 => varint(&mut data).to_le_bytes().to_vec(),
            wire => {
                let length = match wire {
                    1 => 8,
                    2 => varint(&mut data) as usize,
                    5 => 4,
                    other => panic!("wire type {other}"),
                };
                let (value, rest) = data.split_at(length);
                data = rest;
                value.to_vec()
            }
        };
        all.push((key >> 3, value));
    }
    all
}

fn field(message: &[(u64, Vec<u8>)], number: u64) -> Vec<u8> {
    message.iter().find(|f| f.0 == number).unwrap_or_else(|| panic!("no field {number}")).1.clone()
}

fn double(bytes: Vec<u8>) -> f64 {
    f64::from_le_bytes(bytes.try_into().unwrap())
}

/// (tag, step, wall time, value) of every scalar; the first record must be the version.
fn read(path: &std::path::Path) -> Vec<(String, i64, f64, f32)> {
    let records = records(&std::fs::read(path).unwrap());
    assert_eq!(field(&fields(&records[0]), 3), b"brain.Event:2");
    let mut all = Vec::new();
    for event in &records[1..] {
        let event = fields(event);
        let wall_time = double(field(&event, 1));
        let step = i64::from_le_bytes(field(&event, 2).try_into().unwrap());
        for (_, value) in fields(&field(&event, 5)) {
            let value = fields(&value);
            let tag = String::from_utf8(field(&value, 1)).unwrap();
            all.push((tag, step, wall_time, f32::from_le_bytes(field(&value, 2).try_into().unwrap())));
        }
    }
    all
}

fn line(value: Value) -> Map<String, Value> {
    value.as_object().unwrap().clone()
}

#[test]
fn the_tests_own_crc_is_right() {
    assert_eq!(crc(b"123456789"), 0xe306_9283, "the check value of CRC-32C");
}

#[test]
fn scalars_come_back_with_step_time_and_value() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("events.out.tfevents.1");
    let mut file = EventFile::create(&path).unwrap();
    let long = "x".repeat(300);
    let scalars = [
        ("loss", 0, 1.5, -0.25),
        ("phase/é", 1 << 40, 1.7e9, 1e30),
        ("negative", -3, 0.0, 0.1),
        (&long, 7, 2.0, f64::NAN),
    ];
    for (tag, step, time, value) in scalars {
        file.scalar(tag, step, time, value).unwrap();
        // Nothing waits in memory: a process that is killed now has lost nothing.
        assert_eq!(read(&path).last().unwrap().0, tag);
    }
    for (found, (tag, step, time, value)) in read(&path).iter().zip(scalars) {
        assert_eq!((found.0.as_str(), found.1, found.2), (tag, step, time));
        assert!(found.3 == value as f32 || (found.3.is_nan() && value.is_nan()));
    }
}

#[test]
fn every_number_of_a_line_with_a_step_is_a_scalar() {
    let full = json!({ "phase": "pretrain", "step": 120, "epoch": 3, "loss": -0.5, "note": "x", "on": true,
                       "none": null, "list": [1], "time": 5.0 });
    let expected = [("pretrain/epoch".to_string(), 120, 3.0), ("pretrain/loss".to_string(), 120, -0.5)];
    assert_eq!(scalars_of(&line(full)), expected);
    assert_eq!(scalars_of(&line(json!({ "step": 1, "loss": 2 }))), [("loss".to_string(), 1, 2.0)]);
    assert_eq!(scalars_of(&line(json!({ "phase": "evaluate", "top1": 0.5 }))), []);
    // As a run logs what is not finite.
    let odd = scalars_of(&line(json!({ "step": 1, "a": "NaN", "b": "inf", "c": "-inf", "d": "nan" })));
    let values: Vec<f64> = odd.iter().map(|(_, _, value)| *value).collect();
    assert!(values.len() == 3 && values[0].is_nan() && values[1..] == [f64::INFINITY, f64::NEG_INFINITY], "{odd:?}");
    assert_eq!(scalars_of(&line(json!({ "step": 1.5, "loss": 2 }))), []);
    assert_eq!(scalars_of(&line(json!({ "step": "1", "loss": 2 }))), []);
}

#[test]
fn a_file_made_anew_says_the_same_as_one_that_grew_and_can_grow_on() {
    let dir = tempfile::tempdir().unwrap();
    let (grown, anew) = (dir.path().join("a.tfevents"), dir.path().join("b.tfevents"));
    let lines: Vec<_> = (0..50)
        .map(|i| line(json!({ "phase": "p", "step": i, "loss": 1.0 / f64::from(i + 1), "lr": 1e-3, "time": 100 + i })))
        .chain([line(json!({ "phase": "evaluate", "top1": 0.5 }))])
        .collect();
    let mut file = EventFile::create(&grown).unwrap();
    for line in &lines {
        file.line(line).unwrap();
    }
    std::fs::write(&anew, "what was there").unwrap();
    rewrite(&anew, lines).unwrap();
    assert_eq!(read(&anew).len(), 100);
    assert_eq!(read(&grown), read(&anew));
    assert_eq!(read(&anew)[2], ("p/loss".to_string(), 1, 101.0, 0.5));

    EventFile::append(&anew).unwrap().scalar("p/loss", 50, 150.0, 0.0).unwrap();
    assert_eq!(read(&anew).len(), 101);
}

#[test]
fn lines_without_a_time_have_that_of_writing() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("tfevents");
    rewrite(&path, [line(json!({ "step": 1, "loss": 2 }))]).unwrap();
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs_f64();
    assert!((read(&path)[0].2 - now).abs() < 60.0);
}

#[test]
fn a_file_that_cannot_be_written_is_told() {
    let missing = std::path::Path::new("/proc/nowhere/events");
    for error in [EventFile::create(missing).err(), EventFile::append(missing).err(), rewrite(missing, []).err()] {
        assert!(format!("{:#}", error.unwrap()).contains("/proc/nowhere/events"));
    }
}
