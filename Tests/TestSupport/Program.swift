package import SystemPackage

#if canImport(Glibc)
  import Glibc
#else
  import Darwin
#endif

/// Our own program, as built beside the tests.
package enum Program {
  /// The path of `platter`: `PLATTER_PROGRAM` where that is set, else the one beside the test bundle; nil where there
  /// is none.
  package static let path: String? = {
    if let path = environmentValue("PLATTER_PROGRAM") { return path }
    for folder in buildFolders() {
      let candidate = folder.appending("platter").string
      if unsafe access(candidate, X_OK) == 0 { return candidate }
    }
    return nil
  }()

  /// Runs `platter` with these words.
  package static func run(
    _ arguments: [String], input: [UInt8]? = nil, in folder: FilePath? = nil, environment: [String: String] = [:],
    timeoutSeconds: Int = 120
  ) throws -> RunResult {
    guard let path else { throw RunError(description: "the program platter is not built") }
    return try TestSupport.run(
      path, arguments, input: input, in: folder, environment: environment, timeoutSeconds: timeoutSeconds)
  }

  /// Runs `platter` and tells its peak resident memory in bytes.
  ///
  /// A child starts with its parent's peak on its account, so a small process in between does the measuring; the
  /// figure is never below that one's own 10 MiB or so. Throws where Python is missing.
  package static func runMeasured(_ arguments: [String], in folder: FilePath? = nil, timeoutSeconds: Int = 120) throws
    -> (result: RunResult, peakByteCount: Int)
  {
    guard let path else { throw RunError(description: "the program platter is not built") }
    let script = """
      import os, sys
      child = os.posix_spawn(sys.argv[1], sys.argv[1:], os.environ)
      _, status, usage = os.wait4(child, 0)
      sys.stderr.write("\\n%d" % usage.ru_maxrss)
      sys.exit(os.waitstatus_to_exitcode(status) & 255)
      """
    var result = try TestSupport.run(
      Tool.python.path ?? "python3", ["-c", script, path] + arguments, in: folder, timeoutSeconds: timeoutSeconds)
    guard let end = result.errorText.lastIndex(of: "\n"),
      let kibibytes = Int(result.errorText[result.errorText.index(after: end)...])
    else { throw RunError(description: "no measurement: \(result.errorText)") }
    result.errorText = String(result.errorText[..<end])
    return (result, kibibytes * 1024)
  }

  private static func buildFolders() -> [FilePath] {
    var places: [FilePath] = []
    #if os(Linux)
      var buffer = [CChar](repeating: 0, count: 4096)
      let count = unsafe readlink("/proc/self/exe", &buffer, buffer.count - 1)
      if count > 0 {
        places.append(FilePath(String(decoding: buffer.prefix(count).map { UInt8(bitPattern: $0) }, as: UTF8.self)))
      }
    #endif
    places += CommandLine.arguments.filter { $0.contains(".xctest") }.map { FilePath($0) }
    var folders: [FilePath] = []
    for place in places {
      var folder = place.removingLastComponent()
      // On macOS the test bundle is a folder, and the program lies beside it.
      for _ in 0..<4 where !folder.isEmpty {
        folders.append(folder)
        folder = folder.removingLastComponent()
      }
    }
    return folders
  }
}

/// The root folder of this source tree.
package func sourceTree(_ file: String = #filePath) -> FilePath {
  FilePath(file).removingLastComponent().removingLastComponent().removingLastComponent()
}
