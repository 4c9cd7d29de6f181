package import PlatterCore
package import SystemPackage

#if canImport(Glibc)
  import Glibc
#else
  import Darwin
#endif

/// Somebody who takes bytes in order: standard output, a pipe with a name.
package final class OutputStream: Sendable {
  private static let zeros = [UInt8](repeating: 0, count: 64 << 10)

  package let name: String
  private let descriptor: Int32
  private let isOwned: Bool

  package static let standardOutput = OutputStream(descriptor: 1, name: "standard output")

  /// - Parameter descriptor: stays the caller's.
  package init(descriptor: Int32, name: String) {
    self.descriptor = descriptor
    self.name = name
    isOwned = false
  }

  /// Opens a pipe by its name; waits until somebody reads from it.
  package init(_ path: FilePath) throws(ImageError) {
    name = path.printable
    descriptor = unsafe path.withPlatformString { unsafe open($0, O_WRONLY | O_CLOEXEC) }
    isOwned = true
    guard descriptor >= 0 else { throw ImageError.io("cannot be opened", Errno(rawValue: errno), file: name) }
  }

  deinit { if isOwned, descriptor >= 0 { _ = close(descriptor) } }

  /// Writes all bytes.
  /// - Throws: `.io`, a closed pipe included.
  package func write(_ bytes: RawSpan) throws(ImageError) {
    let wanted = bytes.byteCount
    var reason: Int32 = 0
    unsafe bytes.withUnsafeBytes { bytes in
      guard let base = bytes.baseAddress else { return }
      var done = 0
      while done < wanted {
        let put = unsafe systemWrite(descriptor, base + done, wanted - done)
        if put >= 0 {
          done += put
        } else if errno == EAGAIN {
          // Somebody else has set the pipe not to wait.
          var wait = pollfd(fd: descriptor, events: Int16(POLLOUT), revents: 0)
          _ = unsafe poll(&wait, 1, -1)
        } else if errno != EINTR {
          reason = errno
          break
        }
      }
    }
    guard reason == 0 else { throw ImageError.io("cannot be written", Errno(rawValue: reason), file: name) }
  }

  func writeZeros(_ byteCount: UInt64) throws(ImageError) {
    var left = byteCount
    while left > 0 {
      let count = Int(min(left, UInt64(Self.zeros.count)))
      try write(Self.zeros.rawBytes.extracting(0..<count))
      left -= UInt64(count)
    }
  }
}

/// The system's call, whose name the class takes.
private func systemWrite(_ descriptor: Int32, _ bytes: UnsafeRawPointer, _ count: Int) -> Int {
  unsafe write(descriptor, bytes, count)
}
