import PlatterCore

/// One of the two headers, at 64 KiB and 128 KiB [MS-VHDX 2.2.2]. Checked as a value when it exists.
package struct Header: Sendable, Equatable {
  static let byteCount = 4096
  static let slotOffsets: [UInt64] = [64 << 10, 128 << 10]
  static let supportedVersion: UInt16 = 1
  static let maximumLogByteCount: UInt32 = 1 << 30  // Microsoft's implementation; the specification has none
  /// Alignment of the log and of every region.
  static let megabyte: UInt64 = 1 << 20

  /// Bytes 8..<16: the valid header with the larger number is the current one.
  package var sequenceNumber: UInt64
  /// Bytes 16..<32: changes with every change of the file.
  package var fileWriteGUID: GUID
  /// Bytes 32..<48: changes when guest bytes change; what children remember of their parent.
  package var dataWriteGUID: GUID
  /// Bytes 48..<64: names the log entries that are to be replayed; zero for none.
  package var logGUID: GUID
  /// Bytes 64..<66.
  package var logVersion: UInt16
  /// Bytes 66..<68.
  package var version: UInt16
  /// Bytes 68..<72.
  package var logByteCount: UInt32
  /// Bytes 72..<80.
  package var logOffset: UInt64

  /// Checks signature, checksum and version: what makes a header valid. `checkLog` looks at the rest.
  init(parsing bytes: RawSpan) throws(ImageError) {
    guard bytes.hasSignature("head") else { throw .corrupt("does not begin with \"head\"") }
    let stored: UInt32 = try bytes.number(at: 4)
    let actual = Checksum.ofStructure(bytes)
    guard stored == actual else {
      throw .corrupt("has checksum \(UInt64(stored).hex), its bytes give \(UInt64(actual).hex)")
    }
    sequenceNumber = try bytes.number(at: 8)
    fileWriteGUID = try GUID(parsing: bytes, at: 16)
    dataWriteGUID = try GUID(parsing: bytes, at: 32)
    logGUID = try GUID(parsing: bytes, at: 48)
    logVersion = try bytes.number(at: 64)
    version = try bytes.number(at: 66)
    logByteCount = try bytes.number(at: 68)
    logOffset = try bytes.number(at: 72)
    guard version == Self.supportedVersion else { throw .unsupported("has version \(version), not 1") }
  }

  /// The 4 KiB as they go to disk, checksum included.
  package func encoded() -> [UInt8] {
    var bytes = [UInt8](repeating: 0, count: Self.byteCount)
    bytes.replaceSubrange(0..<4, with: "head".utf8)
    bytes.withMutableRawBytes { bytes in
      bytes.storeLittleEndian(sequenceNumber, at: 8)
      fileWriteGUID.store(to: &bytes, at: 16)
      dataWriteGUID.store(to: &bytes, at: 32)
      logGUID.store(to: &bytes, at: 48)
      bytes.storeLittleEndian(logVersion, at: 64)
      bytes.storeLittleEndian(version, at: 66)
      bytes.storeLittleEndian(logByteCount, at: 68)
      bytes.storeLittleEndian(logOffset, at: 72)
    }
    let checksum = Checksum.ofStructure(bytes.rawBytes)
    bytes.withMutableRawBytes { $0.storeLittleEndian(checksum, at: 4) }
    return bytes
  }

  /// The log's place in the file; nil where the file has none.
  var logRange: Range<UInt64>? {
    guard logByteCount > 0 else { return nil }
    return logOffset..<logOffset + UInt64(logByteCount)
  }

  /// Whether entries may wait in the log.
  package var needsReplay: Bool { logGUID != .zero }

  /// Checks where the log is said to be. A file that was never written may have no log at all.
  func checkLog() throws(ImageError) {
    guard !needsReplay || logVersion == 0 else {
      throw .unsupported("the log has version \(logVersion), not 0")
    }
    guard logByteCount > 0 else {
      guard !needsReplay else { throw .corrupt("the header names log \(logGUID), but the log has no bytes") }
      return
    }
    guard logByteCount <= Self.maximumLogByteCount else {
      throw .corrupt("the log has \(logByteCount) bytes; at most \(Self.maximumLogByteCount) are allowed")
    }
    guard UInt64(logByteCount) % Self.megabyte == 0, logOffset % Self.megabyte == 0, logOffset >= Self.megabyte,
      logOffset < 1 << 62
    else {
      throw .corrupt(
        "the log (\(UInt64(logByteCount).hex) bytes at \(logOffset.hex)) does not lie on whole MiB behind the first")
    }
  }
}

/// Both headers as found, and which one counts.
package struct HeaderPair: Sendable {
  /// The slot that counts: 0 or 1.
  package var currentSlot: Int
  package var current: Header
  /// What is wrong with a slot; nil where it is valid.
  package var faults: [String?]

  /// Reads both slots and picks the valid one with the larger sequence number.
  init(reading store: any ByteStore) throws(ImageError) {
    var found: [(header: Header, bytes: [UInt8], slot: Int)] = []
    var faults: [String?] = [nil, nil]
    var firstError: ImageError?
    for (slot, offset) in Header.slotOffsets.enumerated() {
      do throws(ImageError) {
        let bytes = try store.readFully("the header", at: offset, count: Header.byteCount)
        found.append((try Header(parsing: bytes.rawBytes), bytes, slot))
      } catch {
        guard error.code != .io else { throw error }
        faults[slot] = "header \(slot + 1) \(error.message)"
        firstError = firstError ?? error
      }
    }
    guard var best = found.first else {
      throw ImageError(
        firstError?.code ?? .corrupt, "no header is valid: \(faults.compactMap { $0 }.joined(separator: "; "))")
    }
    if found.count == 2 {
      let other = found[1]
      if other.header.sequenceNumber == best.header.sequenceNumber {
        // Forbidden, but Disk2vhd writes the same header twice; only a difference leaves a doubt.
        guard other.bytes == best.bytes else {
          throw .corrupt("both headers have sequence number \(best.header.sequenceNumber) and differ")
        }
      } else if other.header.sequenceNumber > best.header.sequenceNumber {
        best = other
      }
    }
    try best.header.checkLog()
    currentSlot = best.slot
    current = best.header
    self.faults = faults
  }
}
