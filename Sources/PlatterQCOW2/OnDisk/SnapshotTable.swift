package import PlatterCore

/// One entry of the snapshot table [QCOW2 specification, Snapshots].
package struct SnapshotRecord: Sendable, Equatable {
  static let fixedByteCount = 40
  static let maximumExtraByteCount: UInt32 = 1024  // QEMU's
  static let maximumMendedExtraByteCount: UInt32 = 1 << 20  // ours: more is not followed even to be cut off
  static let maximumTableByteCount: UInt64 = 64 << 20  // QEMU's

  /// Bytes 0..<8 of the entry: where the snapshot's L1 table lies.
  package var l1Offset: UInt64
  /// Bytes 8..<12.
  package var l1EntryCount: UInt32
  /// A decimal number in practice.
  package var id: [UInt8]
  package var name: [UInt8]
  /// Bytes 16..<20: seconds since 1970.
  package var seconds: UInt32
  /// Bytes 20..<24.
  package var nanoseconds: UInt32
  /// Bytes 24..<32: how long the guest had run.
  package var guestClockNanoseconds: UInt64
  /// Bytes 32..<36; overridden by 64 bits of the extra data.
  package var shortVMStateByteCount: UInt32
  /// Everything between the fixed fields and the id, known and unknown.
  package var extra: [UInt8]

  /// Bytes of the machine's state that is stored behind the disk.
  package var vmStateByteCount: UInt64 {
    extra.rawBytes.bigEndian(at: 0, as: UInt64.self) ?? UInt64(shortVMStateByteCount)
  }

  /// Guest bytes of the disk in the snapshot; nil where the entry does not say: then it is the present size.
  package var diskByteCount: UInt64? { extra.rawBytes.bigEndian(at: 8, as: UInt64.self) }

  /// Guest instructions executed; nil where they were not counted.
  package var instructionCount: UInt64? {
    guard let count = extra.rawBytes.bigEndian(at: 16, as: UInt64.self), count != .max else { return nil }
    return count
  }

  /// Reads the whole table.
  ///
  /// Cost: one read for each 64 KiB of table; memory in proportion to the table, which lies inside the file.
  package static func table(_ store: any ByteStore, _ header: Header, fileByteCount: UInt64) throws(ImageError)
    -> [SnapshotRecord]
  {
    var reader = WindowReader(store, "snapshot table", start: header.snapshotTableOffset)
    var records: [SnapshotRecord] = []
    var l1ByteCount: UInt64 = 0
    for index in 0..<Int(header.snapshotCount) {
      let record = try SnapshotRecord(parsing: &reader, index, maximumExtraByteCount: maximumExtraByteCount)
      guard reader.consumedByteCount <= maximumTableByteCount else {
        throw .corrupt("the snapshot table is larger than \(maximumTableByteCount) bytes")
      }
      guard record.l1EntryCount <= Header.maximumL1EntryCount else {
        throw .corrupt(
          "snapshot \(index): the L1 table has \(record.l1EntryCount) entries, more than "
            + "\(Header.maximumL1EntryCount)")
      }
      // At most 2^16 tables of 2^25 bytes: no overflow.
      l1ByteCount += UInt64(record.l1EntryCount) * 8
      guard l1ByteCount <= fileByteCount else {
        throw .corrupt(
          "snapshot \(index): the L1 tables of the snapshots so far have \(l1ByteCount) bytes, more than the file "
            + "(\(fileByteCount))")
      }
      records.append(record)
    }
    return records
  }

  init(parsing reader: inout WindowReader, _ index: Int, maximumExtraByteCount: UInt32) throws(ImageError) {
    let fixed = try reader.next(Self.fixedByteCount)
    let bytes = fixed.rawBytes
    l1Offset = bytes.bigEndian(at: 0) ?? 0
    l1EntryCount = bytes.bigEndian(at: 8) ?? 0
    let idByteCount: UInt16 = bytes.bigEndian(at: 12) ?? 0
    let nameByteCount: UInt16 = bytes.bigEndian(at: 14) ?? 0
    seconds = bytes.bigEndian(at: 16) ?? 0
    nanoseconds = bytes.bigEndian(at: 20) ?? 0
    guestClockNanoseconds = bytes.bigEndian(at: 24) ?? 0
    shortVMStateByteCount = bytes.bigEndian(at: 32) ?? 0
    let extraByteCount: UInt32 = bytes.bigEndian(at: 36) ?? 0
    guard extraByteCount <= maximumExtraByteCount else {
      throw .corrupt(
        "snapshot \(index): \(extraByteCount) bytes of extra data, more than \(maximumExtraByteCount)")
    }
    extra = try reader.next(Int(extraByteCount))
    id = try reader.next(Int(idByteCount))
    name = try reader.next(Int(nameByteCount))
    try reader.skipPadding(to: 8)
  }
}
