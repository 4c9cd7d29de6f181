import PlatterCore
import PlatterQCOW2
import TestSupport
import Testing

@Suite struct CheckTests {
  @Test("a sound image of any shape checks clean", arguments: LayoutShape.all)
  func sound(_ shape: LayoutShape) throws {
    var random = SeededGenerator(seed: shape.seed)
    let report = try check(randomImage(shape, &random))
    #expect(report.messages == [])
    #expect(status(report) == 0)
  }

  @Test("refcounts of every width are read", arguments: UInt32(1)...6)
  func widths(order: UInt32) throws {
    var image = variedImage()
    image.refcountOrder = order
    #expect(try check(image).messages == [])
  }

  @Test("one worker and many find the same, in the same order")
  func workers() throws {
    var image = variedImage(clusterBits: 9)
    for guest in 10..<39 { image.entries[guest] = .raw(1 << 63 | UInt64(guest) << 40) }
    let bytes = image.build().bytes
    let (one, four) = (try check(bytes), try check(bytes, workers: 4))
    #expect(one.messages == four.messages)
    #expect(CheckNumbers(one) == CheckNumbers(four))
    #expect(one.corruptions == 29)
  }

  @Test("the progress can cancel")
  func cancelled() throws {
    let map = try #require(try open(variedImage()) as? any CheckableMap)
    let error = #expect(throws: ImageError.self) { try map.check(workers: 1) { _ in false } }
    #expect(error?.code == .cancelled)
  }
}

@Suite("qemu-img check gives the same numbers", .requires(.qemuImg))
struct CheckInteropTests {
  @Test("on sound images", arguments: LayoutShape.all)
  func sound(_ shape: LayoutShape) throws {
    var random = SeededGenerator(seed: shape.seed &+ 100)
    var image = randomImage(shape, &random)
    // qemu-img rounds other sizes down.
    image.byteCount -= image.byteCount % 512
    let bytes = image.build().bytes
    let theirs = try qemuCheck(bytes)
    #expect(CheckNumbers(try check(bytes)) == theirs.numbers, "\(theirs.text)")
  }

  @Test("on an image with snapshots, bitmaps and packed clusters", arguments: [9, 12, 16])
  func varied(clusterBits: Int) throws {
    let bytes = variedImage(clusterBits: clusterBits).build().bytes
    let theirs = try qemuCheck(bytes)
    #expect(CheckNumbers(try check(bytes)) == theirs.numbers, "\(theirs.text)")
  }
}
