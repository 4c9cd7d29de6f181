import PlatterCore
import SystemPackage

extension SnapshotRecord {
  /// Extra data that a new entry has: size of the VM state, size of the disk, instruction count.
  static let usualExtraByteCount = 24
  static let maximumNameByteCount = 255  // QEMU's

  /// A snapshot of the present disk, without VM state.
  init(
    l1Offset: UInt64, l1EntryCount: UInt32, id: [UInt8], name: [UInt8], seconds: UInt32, nanoseconds: UInt32,
    diskByteCount: UInt64
  ) {
    self.l1Offset = l1Offset
    self.l1EntryCount = l1EntryCount
    self.id = id
    self.name = name
    self.seconds = seconds
    self.nanoseconds = nanoseconds
    guestClockNanoseconds = 0
    shortVMStateByteCount = 0
    // qemu-img writes an instruction count of 0 (observed: 7.2).
    extra = Words.encode([0, diskByteCount, 0])
  }

  /// Version 3 wants the first two fields of the extra data; entries of older writers may lack them.
  func withUsualExtra(presentByteCount: UInt64) -> SnapshotRecord {
    guard extra.count < 16 else { return self }
    var record = self
    record.extra = Words.encode([vmStateByteCount, presentByteCount, .max])
    return record
  }

  /// Bytes of the entry in the table, padding included.
  var encodedByteCount: Int { (Self.fixedByteCount + extra.count + id.count + name.count + 7) / 8 * 8 }

  /// The entry as it lies in the table. Id and name come from a table, or were checked to fit into 16 bits.
  var encoded: [UInt8] {
    var bytes = [UInt8](repeating: 0, count: Self.fixedByteCount)
    bytes.withMutableRawBytes { raw in
      raw.storeBigEndian(l1Offset, at: 0)
      raw.storeBigEndian(l1EntryCount, at: 8)
      raw.storeBigEndian(UInt16(id.count), at: 12)
      raw.storeBigEndian(UInt16(name.count), at: 14)
      raw.storeBigEndian(seconds, at: 16)
      raw.storeBigEndian(nanoseconds, at: 20)
      raw.storeBigEndian(guestClockNanoseconds, at: 24)
      raw.storeBigEndian(shortVMStateByteCount, at: 32)
      raw.storeBigEndian(UInt32(extra.count), at: 36)
    }
    bytes += extra
    bytes += id
    bytes += name
    bytes.append(contentsOf: repeatElement(0, count: encodedByteCount - bytes.count))
    return bytes
  }

  var printableName: String { FilePath(String(decoding: name, as: UTF8.self)).printable }

  /// The number that an id starts with; 0 where it starts with none.
  var number: UInt64 {
    var value: UInt64 = 0
    for digit in id {
      guard (UInt8(ascii: "0")...UInt8(ascii: "9")).contains(digit),
        let next = value.multiplied(by: 10)?.adding(UInt64(digit - UInt8(ascii: "0")))
      else { break }
      value = next
    }
    return value
  }

  /// As `info` and `snapshot -l` tell of it.
  func facts(presentByteCount: UInt64) -> SnapshotFacts {
    SnapshotFacts(
      id: String(decoding: id, as: UTF8.self), name: String(decoding: name, as: UTF8.self),
      vmStateByteCount: vmStateByteCount, seconds: Int64(seconds), nanoseconds: nanoseconds,
      guestClockNanoseconds: guestClockNanoseconds, instructionCount: instructionCount,
      diskByteCount: diskByteCount ?? presentByteCount)
  }
}
