import SystemPackage

#if canImport(Glibc)
  import Glibc
#else
  import Darwin
#endif

let brokenPipe = Errno.brokenPipe.rawValue

/// The system's sentence for an error number.
func systemText(_ reason: Int32) -> String { Errno(rawValue: reason).description }

extension Argument {
  /// The command line, byte for byte, the program's name in front.
  static func commandLine() -> [Argument] {
    let count = Int(CommandLine.argc)
    return (0..<count).map { index in
      guard let word = unsafe CommandLine.unsafeArgv[index] else { return Argument("") }
      return unsafe Argument(bytes: [UInt8](UnsafeRawBufferPointer(start: word, count: strlen(word))))
    }
  }
}
