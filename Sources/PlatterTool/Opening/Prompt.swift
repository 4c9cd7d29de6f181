import PlatterCore

#if canImport(Glibc)
  import Glibc
#else
  import Darwin
#endif

/// Asks for a passphrase on the terminal, without showing it.
enum Prompt {
  private static let maximumByteCount = 4096

  /// The line typed, or nil where there is no terminal.
  static func passphrase() throws(ImageError) -> [UInt8]? {
    guard isatty(0) == 1, isatty(2) == 1 else { return nil }
    var before = termios()
    guard unsafe tcgetattr(0, &before) == 0 else { return nil }
    var silent = before
    silent.c_lflag &= ~tcflag_t(ECHO)
    let output = Output(descriptor: 2)
    output.write("Passphrase: " as StaticString)
    output.flush()
    guard unsafe tcsetattr(0, TCSAFLUSH, &silent) == 0 else { return nil }
    defer {
      _ = unsafe tcsetattr(0, TCSAFLUSH, &before)
      output.write("\n" as StaticString)
      output.flush()
    }
    var line: [UInt8] = []
    var byte: UInt8 = 0
    while unsafe read(0, &byte, 1) == 1, byte != UInt8(ascii: "\n") {
      guard line.count < maximumByteCount else { throw ImageError.invalidArgument("the passphrase is too long") }
      line.append(byte)
    }
    return line
  }
}
