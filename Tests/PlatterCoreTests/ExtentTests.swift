import PlatterCore
import Testing

@Suite struct ExtentTests {
  @Test("neighbouring data runs join, runs of different kinds do not")
  func joining() {
    var runs: [Extent] = []
    runs.appendJoining(.data(start: 0, byteCount: 512, store: 0, offset: 4096))
    runs.appendJoining(.data(start: 512, byteCount: 512, store: 0, offset: 4608))
    runs.appendJoining(.zero(start: 1024, byteCount: 512))
    runs.appendJoining(.absent(start: 1536, byteCount: 512))
    #expect(
      runs == [
        .data(start: 0, byteCount: 1024, store: 0, offset: 4096), .zero(start: 1024, byteCount: 512),
        .absent(start: 1536, byteCount: 512),
      ])
  }
}
