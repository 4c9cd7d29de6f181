package import PlatterCore
import Synchronization

/// The plain bytes of an encrypted disk image. Read-only; every thread may read at once.
///
/// Cost: whole blocks are read and decrypted in place; a block that is wanted in part costs a copy.
package final class DecryptingDMGStore: ByteStore {
  private let base: any ByteStore
  private let header: EncryptedDMGHeader
  private let cipher: CipherContextPool
  private let codes: CodePool

  /// Bytes handled at once.
  private static let batchByteCount = 1 << 18

  init(_ base: any ByteStore, _ header: EncryptedDMGHeader, _ keys: EncryptedDMGHeader.Keys) throws(ImageError) {
    let reference = try LibCrypto.cipher("AES-\(header.keyBits)-CBC", called: "aes-\(header.keyBits)")
    self.base = base
    self.header = header
    cipher = try CipherContextPool(
      reference, name: "aes-\(header.keyBits)", key: keys.cipher.bytes, isEncrypting: false)
    codes = CodePool(key: keys.code)
  }

  package var name: String { base.name }
  package var isWritable: Bool { false }
  package var identity: StoreIdentity? { base.identity }
  package func byteCount() throws(ImageError) -> UInt64 { header.dataByteCount }
  package func allocatedByteCount() throws(ImageError) -> UInt64 { try base.allocatedByteCount() }

  package func read(into buffer: inout MutableRawSpan, at offset: UInt64) throws(ImageError) -> Int {
    guard offset < header.dataByteCount else { return 0 }
    let wanted = Int(min(UInt64(buffer.byteCount), header.dataByteCount - offset))
    let blockByteCount = UInt64(header.blockByteCount)
    var done = 0
    while done < wanted {
      let place = offset + UInt64(done)
      let inBlock = Int(place % blockByteCount)
      let whole = (wanted - done) / header.blockByteCount * header.blockByteCount
      if inBlock == 0, whole > 0 {
        let count = min(whole, max(Self.batchByteCount / header.blockByteCount, 1) * header.blockByteCount)
        try buffer.withPart(done..<done + count) { part throws(ImageError) in try readBlocks(into: &part, at: place) }
        done += count
      } else {
        let start = place - UInt64(inBlock)
        // The last block may be cut behind its data.
        let available = min(blockByteCount, header.dataLimit - header.dataOffset - start).roundedDown(toMultipleOf: 16)
        var block = [UInt8](repeating: 0, count: Int(available))
        try block.withMutableRawBytes { block throws(ImageError) in try readBlocks(into: &block, at: start) }
        let count = min(wanted - done, block.count - inBlock)
        guard count > 0 else { throw ImageError(.truncated, "an encrypted block is cut short", file: name) }
        buffer.copy(block.rawBytes.extracting(inBlock..<inBlock + count), to: done)
        done += count
      }
    }
    return wanted
  }

  /// Reads and decrypts blocks from the start of one on: whole ones, or a part of one.
  private func readBlocks(into bytes: inout MutableRawSpan, at start: UInt64) throws(ImageError) {
    let position = header.dataOffset + start
    try base.readFully("encrypted data", into: &bytes, at: position)
    let unitByteCount = min(header.blockByteCount, bytes.byteCount)
    let vectors = try codes.vectors(
      first: start / UInt64(header.blockByteCount), count: bytes.byteCount / max(unitByteCount, 1))
    try cipher.run(&bytes, vectors: vectors, unitByteCount: unitByteCount)
  }

  package func write(_ bytes: RawSpan, at offset: UInt64) throws(ImageError) { throw refusal }
  package func punch(_ range: Range<UInt64>) throws(ImageError) { throw refusal }
  package func zero(_ range: Range<UInt64>) throws(ImageError) { throw refusal }
  package func allocate(_ range: Range<UInt64>) throws(ImageError) { throw refusal }
  package func resize(to byteCount: UInt64) throws(ImageError) { throw refusal }
  package func flush() throws(ImageError) {}

  private var refusal: ImageError { ImageError(.unsupported, "encrypted disk images are only read", file: name) }
}

/// Codes of block numbers under one key, for many threads.
private final class CodePool: Sendable {
  /// Owned by one thread at a time: in the list, or with who took it.
  private final class Code: @unchecked Sendable {
    var code: HMAC
    init(key: SecretBytes) throws(ImageError) { code = try HMAC(.sha1, key: key.bytes) }
  }

  private static let maximumFreeCount = 64
  private let key: SecretBytes
  private let free = Mutex<[Code]>([])

  init(key: SecretBytes) { self.key = key }

  /// The vectors of consecutive blocks: the first 16 bytes of each number's code.
  func vectors(first: UInt64, count: Int) throws(ImageError) -> [UInt8] {
    let taken = free.withLock { $0.popLast() }
    let code = if let taken { taken } else { try Code(key: key) }
    var number = [UInt8](repeating: 0, count: 4)
    var value = [UInt8](repeating: 0, count: HashAlgorithm.sha1.byteCount)
    var vectors = [UInt8](repeating: 0, count: count * 16)
    for index in 0..<count {
      number.withMutableRawBytes { $0.storeBigEndian(UInt32(truncatingIfNeeded: first &+ UInt64(index)), at: 0) }
      code.code.update(number.rawBytes)
      value.withMutableRawBytes { code.code.finish(into: &$0) }
      vectors.withMutableRawBytes { $0.copy(value.rawBytes.extracting(0..<16), to: index * 16) }
    }
    free.withLock { if $0.count < Self.maximumFreeCount { $0.append(code) } }
    return vectors
  }
}
