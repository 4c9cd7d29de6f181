import PlatterVHDX
import Testing

@Suite struct GUIDTests {
  @Test("a GUID is read with and without braces, in either case, and printed in lower case")
  func text() {
    let guid = GUID(0x2dc2_7766_f623_4200, 0x9d64_115e_9bfd_4a08)
    #expect(GUID(text: "{2DC27766-F623-4200-9D64-115E9BFD4A08}") == guid)
    #expect(GUID(text: "2dc27766-f623-4200-9d64-115e9bfd4a08") == guid)
    #expect(guid.description == "2dc27766-f623-4200-9d64-115e9bfd4a08")
  }

  @Test(
    "anything else is no GUID",
    arguments: [
      "", "{}", "{2dc27766-f623-4200-9d64-115e9bfd4a08", "2dc27766f62342009d64115e9bfd4a08",
      "2dc27766-f623-4200-9d64-115e9bfd4a0g", "2dc27766-f623-4200-9d64-115e9bfd4a0８",
    ])
  func malformed(text: String) { #expect(GUID(text: text) == nil) }
}
