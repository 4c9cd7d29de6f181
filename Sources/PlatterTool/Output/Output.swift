#if canImport(Glibc)
  import Glibc
#else
  import Darwin
#endif

/// Text to a descriptor through one buffer of 64 KiB. A failed write is remembered, so that it cannot end in success.
package final class Output {
  private static let capacity = 64 << 10

  private let descriptor: Int32
  private var buffer: [UInt8] = []
  /// The system's reason of the first failed write.
  package private(set) var failure: Int32?

  package init(descriptor: Int32) { self.descriptor = descriptor }

  package func write(_ text: String) { write(bytes: text.utf8) }

  package func write(bytes: some Collection<UInt8>) {
    if buffer.capacity == 0 { buffer.reserveCapacity(Self.capacity + 4096) }
    buffer.append(contentsOf: bytes)
    if buffer.count >= Self.capacity { flush() }
  }

  package func write(_ text: StaticString) {
    if buffer.capacity == 0 { buffer.reserveCapacity(Self.capacity + 4096) }
    text.withUTF8Buffer { unsafe buffer.append(contentsOf: $0) }
    if buffer.count >= Self.capacity { flush() }
  }

  package func write(line text: String) {
    write(text)
    write("\n" as StaticString)
  }

  /// Decimal digits, without a string in between.
  package func write(decimal value: UInt64) {
    if buffer.capacity == 0 { buffer.reserveCapacity(Self.capacity + 4096) }
    let start = buffer.count
    var rest = value
    repeat {
      buffer.append(UInt8(ascii: "0") &+ UInt8(truncatingIfNeeded: rest % 10))
      rest /= 10
    } while rest != 0
    var low = start
    var high = buffer.count - 1
    while low < high {
      buffer.swapAt(low, high)
      low += 1
      high -= 1
    }
  }

  /// Hands everything to the system. Returns whether all writes so far went well.
  @discardableResult
  package func flush() -> Bool {
    guard failure == nil else {
      buffer.removeAll(keepingCapacity: true)
      return false
    }
    var done = 0
    unsafe buffer.withUnsafeBytes { bytes in
      guard let base = bytes.baseAddress else { return }
      while done < bytes.count {
        let put = unsafe Self.put(descriptor, base + done, bytes.count - done)
        if put > 0 {
          done += put
        } else if errno != EINTR {
          failure = errno
          return
        }
      }
    }
    buffer.removeAll(keepingCapacity: true)
    return failure == nil
  }

  private static func put(_ descriptor: Int32, _ start: UnsafeRawPointer, _ count: Int) -> Int {
    #if canImport(Glibc)
      unsafe Glibc.write(descriptor, start, count)
    #else
      unsafe Darwin.write(descriptor, start, count)
    #endif
  }
}
