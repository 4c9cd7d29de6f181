public import SystemPackage

/// What went wrong with an image, a file or a request: the one error type of this library.
///
/// `description` is a whole sentence that names the file, the structure, the field and its value:
/// `disk.vhdx: BAT entry 17 points to byte 0x8400000, past the end of the file (0x4000000)`.
public struct ImageError: Error, Sendable, CustomStringConvertible {
  /// Kinds of failure that a program may want to tell apart. Stable.
  public enum Code: Sendable, Hashable {
    /// A file, snapshot or bitmap that is not there.
    case notFound
    /// The operating system refused or failed.
    case io
    /// The image contradicts its format.
    case corrupt
    /// The image ends before a structure that it must hold.
    case truncated
    /// The image or the request is valid, but this library does not do it.
    case unsupported
    /// The caller asked for something that makes no sense.
    case invalidArgument
    /// Somebody else holds a lock.
    case busy
    /// The reference policy or a missing right forbids it.
    case forbidden
    /// The caller cancelled.
    case cancelled
  }

  /// How a sentence ends that tells of damage for which the image was marked, so that nobody writes it any more.
  package static let markedCorrupt = "; the image is marked corrupt"

  public var code: Code
  /// The sentence, without the file's name.
  public var message: String
  /// The file that the sentence is about, as the user knows it.
  public var file: String?
  /// The system's reason where there is one.
  public var errno: Errno?

  public init(_ code: Code, _ message: String, file: String? = nil, errno: Errno? = nil) {
    self.code = code
    self.message = message
    self.file = file
    self.errno = errno
  }

  public var description: String {
    guard let file else { return message }
    return "\(file): \(message)"
  }
}

extension ImageError {
  package static func corrupt(_ message: String) -> ImageError { ImageError(.corrupt, message) }
  package static func truncated(_ message: String) -> ImageError { ImageError(.truncated, message) }
  package static func unsupported(_ message: String) -> ImageError { ImageError(.unsupported, message) }
  package static func invalidArgument(_ message: String) -> ImageError { ImageError(.invalidArgument, message) }

  /// A failed system call: `what` says what was being done ("cannot read 4096 bytes at 0x10000").
  package static func io(_ what: String, _ errno: Errno, file: String?) -> ImageError {
    let code: Code =
      switch errno {
      case .noSuchFileOrDirectory: .notFound
      default: .io
      }
    return ImageError(code, "\(what): \(errno.text)", file: file, errno: errno)
  }

  /// The same error, naming `file` where it named none: parsers know bytes, their callers know files.
  package func named(_ file: String) -> ImageError {
    guard self.file == nil else { return self }
    var error = self
    error.file = file
    return error
  }
}

extension Errno {
  /// The system's sentence, as `strerror` gives it.
  package var text: String { description }
}

/// Runs `body` and names `file` in an error that names none.
package func naming<R: ~Copyable>(_ file: @autoclosure () -> String, _ body: () throws(ImageError) -> R)
  throws(ImageError) -> R
{
  do { return try body() } catch { throw error.named(file()) }
}
