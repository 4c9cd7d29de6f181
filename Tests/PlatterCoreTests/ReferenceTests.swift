import PlatterCore
import SystemPackage
import TestSupport
import Testing

/// What a name inside an image may open. Each folder holds `in/image`, `in/beside`, `in/below/deep` and `outside`.
@Suite struct ReferenceTests {
  let folder: ScratchDirectory
  let image: FilePath

  init() throws {
    folder = try ScratchDirectory()
    _ = try folder.makeFolder("in")
    _ = try folder.makeFolder("in/below")
    image = try folder.write([1], to: "in/image")
    try folder.write([2], to: "in/beside")
    try folder.write([3], to: "in/below/deep")
    try folder.write([4], to: "outside")
  }

  private func open(_ name: String, _ policy: ReferencePolicy) throws -> [UInt8] {
    try ReferenceResolver(policy).open(FilePath(name), from: image, what: "backing file").readPrefix(count: 1)
  }

  private func code(_ name: String, _ policy: ReferencePolicy) -> ImageError.Code? {
    do {
      _ = try open(name, policy)
      return nil
    } catch {
      return (error as? ImageError)?.code
    }
  }

  @Test("a file in the image's folder, or below it, is a sibling", arguments: ["beside", "./beside", "below/deep"])
  func siblings(name: String) throws {
    #expect(try !open(name, .siblings).isEmpty)
    #expect(try !open(name, .any).isEmpty)
  }

  @Test("the policy none opens nothing", arguments: ["beside", "below/deep", "../outside"])
  func nothing(name: String) {
    #expect(code(name, .none) == .forbidden)
  }

  @Test("a sibling is reached neither by .. nor by an absolute path, which any allows")
  func escapes() throws {
    #expect(code("../outside", .siblings) == .forbidden)
    #expect(code("below/../../outside", .siblings) == .forbidden)
    #expect(code(folder["outside"], .siblings) == .forbidden)
    #expect(try open("../outside", .any) == [4])
    #expect(try open(folder["outside"], .any) == [4])
  }

  @Test("a symbolic link does not lead out of the folder")
  func links() throws {
    #expect(try run("ln", ["-s", "../outside", folder["in/link"]]).succeeded)
    #expect(try run("ln", ["-s", "..", folder["in/up"]]).succeeded)
    #expect(try run("ln", ["-s", "beside", folder["in/near"]]).succeeded)
    #expect(code("link", .siblings) == .forbidden)
    #expect(code("up/outside", .siblings) == .forbidden)
    #expect(try open("near", .siblings) == [2])
    #expect(try open("link", .any) == [4])
  }

  @Test(
    "a protocol is never followed, whatever the policy",
    arguments: ["json:{\"file\":1}", "nbd://host/x", "file:beside", "http://host/x", "fat:."])
  func protocols(name: String) {
    #expect(code(name, .siblings) == .forbidden)
    #expect(code(name, .any) == .forbidden)
  }

  @Test("a file whose name holds a colon is reached with ./ in front")
  func colon() throws {
    try folder.write([5], to: "in/a:b")
    #expect(code("a:b", .any) == .forbidden)
    #expect(try open("./a:b", .any) == [5])
  }

  @Test("a folder, a pipe and a device are no images", arguments: ["below", "pipe", "/dev/null"])
  func kinds(name: String) throws {
    #expect(try run("mkfifo", [folder["in/pipe"]]).succeeded)
    let code = code(name, .any)
    #expect(code == .unsupported || code == .forbidden)
  }

  @Test("what is not there is not found; the error names the image and the reference")
  func missing() {
    let error = #expect(throws: ImageError.self) { try open("nowhere", .any) }
    #expect(error?.code == .notFound)
    #expect(error?.description.contains("nowhere") == true)
    #expect(error?.file == image.string)
  }

  @Test("control characters of a hostile name do not reach the terminal")
  func escaped() {
    let error = #expect(throws: ImageError.self) { try open("x\u{1b}[2Jy\r", .any) }
    #expect(error?.description.unicodeScalars.allSatisfy { $0.value >= 0x20 } == true)
  }
}
