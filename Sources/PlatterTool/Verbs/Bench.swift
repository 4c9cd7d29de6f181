import Platter
import PlatterCore

/// `bench`: how long many equal requests take.
package enum BenchVerb: Verb {
  package static let name = "bench"
  package static let summary = "Tell how long many equal reads or writes of an image take."
  package static let operands = "FILENAME"
  package static let options =
    [
      OptionSpec("c", nil, .required("COUNT"), "number of requests (75000)"),
      OptionSpec("d", nil, .required("DEPTH"), "requests under way at once (64)"),
      SharedOptions.formatLetter,
      OptionSpec("n", nil, "accepted, of no effect"),
      OptionSpec("i", nil, .required("AIO"), "threads, native or io_uring: accepted, of no effect"),
      OptionSpec("o", nil, .required("OFFSET"), "where the first request starts (0)"),
      OptionSpec("s", nil, .required("BYTES"), "length of a request (4096)"),
      OptionSpec("S", nil, .required("BYTES"), "from one request to the next (their length)"),
      OptionSpec("t", nil, .required("CACHE"), "cache mode (writeback)"),
      OptionSpec("w", nil, "write instead of reading"),
      OptionSpec(nil, "pattern", .required("BYTE"), "write this byte (0)"),
      OptionSpec(nil, "flush-interval", .required("COUNT"), "flush after so many writes"),
      OptionSpec(nil, "no-drain", "do not wait for a flush before the next request"),
      SharedOptions.quiet, SharedOptions.forceShare,
    ] + SharedOptions.opening

  private static let maximumNumber = UInt64(Int32.max)  // QEMU's

  package static func run(_ call: Invocation) throws(Failure) -> Int32 {
    let words = call.options
    let isWriting = words.has("w")
    let cache = try cacheMode(call)
    let operand = try call.singleOperand()
    try call.checkFormatOptions(["f"])
    let source = try call.source(operand)
    var openOptions = try call.openOptions(formatKey: "f")
    openOptions.cache = cache
    let flushInterval = try number(words.value("flush-interval"), "flush interval") ?? 0
    guard isWriting || flushInterval == 0 else {
      throw Failure("--flush-interval is only available in write tests")
    }
    let depth = try number(words.value("d"), "queue depth")
    // qemu-img waits for ever then.
    guard depth != 0 else { throw Failure("Invalid queue depth specified") }
    guard flushInterval == 0 || flushInterval >= depth ?? 64 else {
      throw Failure("Flush interval can't be smaller than depth")
    }
    let writer = try isWriting ? call.openForWriting(source, openOptions, cache: cache) : nil
    let image: DiskImage
    if let writer { image = writer.image } else { image = try call.open(source, openOptions) }
    var bench = Bench(image, writer: writer)
    bench.flushInterval = flushInterval
    bench.drains = !words.has("no-drain")
    bench.depth = Int(depth ?? 64)
    try settle(&bench, call)
    say(bench, isWriting, call)
    do throws(ImageError) {
      let seconds = try bench.run() / .seconds(1)
      try writer?.close()
      call.output.write(line: "Run completed in \(IOText.decimals(seconds, 3)) seconds.")
    } catch {
      throw Failure(call.program.isDropIn ? "Failed request: \(error.systemSentence)" : error.description)
    }
    return 0
  }

  private static func settle(_ bench: inout Bench, _ call: Invocation) throws(Failure) {
    let words = call.options
    if let count = try number(words.value("c"), "request count") { bench.requestCount = count }
    if let text = words.value("o") { bench.offset = try SizeText.option(text, named: "offset") }
    if let text = words.value("s") {
      bench.byteCount = try SizeText.option(text, named: "buffer size")
      guard bench.byteCount <= maximumNumber else { throw outOfRange("buffer size") }
    }
    let step = try words.value("S").map { text throws(Failure) in try SizeText.option(text, named: "step_size") } ?? 0
    guard step <= maximumNumber else { throw outOfRange("step size") }
    bench.stepByteCount = step > 0 ? step : bench.byteCount
    if let text = words.value("pattern") {
      guard let byte = IONumber.whole(text).flatMap({ UInt8(exactly: $0) }) else {
        throw Failure("Invalid pattern byte specified")
      }
      bench.pattern = byte
    }
  }

  private static func outOfRange(_ what: String) -> Failure {
    Failure("Invalid \(what) specified. Must be between 0 and \(maximumNumber).")
  }

  private static func number(_ text: String?, _ what: String) throws(Failure) -> UInt64? {
    guard let text else { return nil }
    guard let value = IONumber.whole(text), (0...Int(maximumNumber)).contains(value) else {
      throw Failure("Invalid \(what) specified")
    }
    return UInt64(value)
  }

  private static func cacheMode(_ call: Invocation) throws(Failure) -> OpenOptions.CacheMode {
    if let mode = call.options.value("i"), !["threads", "native", "io_uring"].contains(mode) {
      throw Failure("Invalid aio option: \(mode)")
    }
    do throws(Failure) {
      return try call.cache("t", what: "cache") ?? .writeback
    } catch {
      throw Failure("Invalid cache mode")
    }
  }

  private static func say(_ bench: Bench, _ isWriting: Bool, _ call: Invocation) {
    call.output.write(
      line: "Sending \(bench.requestCount) \(isWriting ? "write" : "read") requests, \(bench.byteCount) bytes each, "
        + "\(bench.depth) in parallel (starting at offset \(bench.offset), step size \(bench.stepByteCount))")
    if bench.flushInterval > 0 { call.output.write(line: "Sending flush every \(bench.flushInterval) requests") }
  }
}
