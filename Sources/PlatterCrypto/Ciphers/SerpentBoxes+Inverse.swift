/// The inverse S-boxes of Serpent as rows of logical operations, found by a search from the tables in its paper; the tests compare
/// them with these tables. `a` has the lowest bit of each input.
extension SerpentBoxes {
  @inline(__always)
  package static func inverse(_ box: Int, _ a: Word, _ b: Word, _ c: Word, _ d: Word) -> Row {
    switch box {
    case 0: inverse0(a, b, c, d)
    case 1: inverse1(a, b, c, d)
    case 2: inverse2(a, b, c, d)
    case 3: inverse3(a, b, c, d)
    case 4: inverse4(a, b, c, d)
    case 5: inverse5(a, b, c, d)
    case 6: inverse6(a, b, c, d)
    default: inverse7(a, b, c, d)
    }
  }

  @inline(__always)
  fileprivate static func inverse0(_ a: Word, _ b: Word, _ c: Word, _ d: Word) -> Row {
    let t0 = b ^ d
    let t1 = a ^ b
    let t2 = t0 & not(a)
    let t3 = not(b)
    let t4 = t3 & not(a)
    let t5 = c ^ d
    let t6 = t5 ^ t4
    let t7 = t1 & not(t0)
    let t8 = t1 ^ t6
    let t9 = b & c
    let t10 = t8 & not(t9)
    let t11 = t10 | t2
    let t12 = t5 ^ t7
    let t13 = t11 ^ t12
    let t14 = t12 & not(t8)
    let t15 = a ^ t0
    let t16 = t15 ^ t14
    return (t11, t16, t6, t13)
  }

  @inline(__always)
  fileprivate static func inverse1(_ a: Word, _ b: Word, _ c: Word, _ d: Word) -> Row {
    let t0 = a ^ c
    let t1 = d & not(b)
    let t2 = t1 ^ t0
    let t3 = a ^ t2
    let t4 = a ^ b
    let t5 = not(c)
    let t6 = b & not(a)
    let t7 = t0 ^ t6
    let t8 = c & not(d)
    let t9 = t5 & not(t7)
    let t10 = t4 & not(d)
    let t11 = d ^ t9
    let t12 = t3 ^ t11
    let t13 = t12 & not(t10)
    let t14 = t2 & t13
    let t15 = t5 ^ t10
    let t16 = t15 ^ t14
    let t17 = t8 | t15
    let t18 = t17 & not(t11)
    let t19 = t18 ^ t6
    return (t13, t19, t16, t2)
  }

  @inline(__always)
  fileprivate static func inverse2(_ a: Word, _ b: Word, _ c: Word, _ d: Word) -> Row {
    let t0 = not(b)
    let t1 = not(d)
    let t2 = c & d
    let t3 = a | t2
    let t4 = b ^ c
    let t5 = t0 & not(d)
    let t6 = t3 & not(t5)
    let t7 = t6 ^ t4
    let t8 = t2 ^ t5
    let t9 = t7 ^ t8
    let t10 = t9 ^ a
    let t11 = a ^ t1
    let t12 = t8 & not(t7)
    let t13 = t12 ^ t11
    let t14 = t10 & t13
    let t15 = t8 ^ t14
    return (t13, t7, t10, t15)
  }

  @inline(__always)
  fileprivate static func inverse3(_ a: Word, _ b: Word, _ c: Word, _ d: Word) -> Row {
    let t0 = a | b
    let t1 = c & not(b)
    let t2 = a ^ t1
    let t3 = b ^ t2
    let t4 = c ^ t3
    let t5 = d & not(t4)
    let t6 = t5 ^ t2
    let t7 = d ^ t0
    let t8 = t6 & not(t7)
    let t9 = t8 ^ t4
    let t10 = a | t9
    let t11 = t10 & not(d)
    let t12 = t11 ^ t3
    let t13 = t4 ^ t10
    let t14 = t7 & not(t2)
    let t15 = t14 ^ t13
    return (t6, t15, t12, t9)
  }

  @inline(__always)
  fileprivate static func inverse4(_ a: Word, _ b: Word, _ c: Word, _ d: Word) -> Row {
    let t0 = a ^ c
    let t1 = not(a)
    let t2 = d & t0
    let t3 = c & not(d)
    let t4 = t2 ^ t3
    let t5 = d | t1
    let t6 = b ^ t2
    let t7 = t5 & t6
    let t8 = t7 ^ c
    let t9 = t1 & t8
    let t10 = d ^ t6
    let t11 = t10 ^ t9
    let t12 = t1 | t10
    let t13 = t8 ^ t12
    let t14 = t13 ^ d
    let t15 = t3 | t14
    let t16 = t15 & not(b)
    let t17 = t16 ^ t4
    return (t14, t11, t17, t8)
  }

  @inline(__always)
  fileprivate static func inverse5(_ a: Word, _ b: Word, _ c: Word, _ d: Word) -> Row {
    let t0 = a & d
    let t1 = c & not(t0)
    let t2 = not(c)
    let t3 = a & not(c)
    let t4 = b & not(t3)
    let t5 = t0 ^ t2
    let t6 = t5 ^ t4
    let t7 = a ^ d
    let t8 = b & not(t5)
    let t9 = t8 ^ t7
    let t10 = b ^ t9
    let t11 = a & not(t6)
    let t12 = t11 ^ t10
    let t13 = t12 & not(b)
    let t14 = t1 ^ t11
    let t15 = d ^ t13
    let t16 = t15 ^ t14
    return (t9, t12, t16, t6)
  }

  @inline(__always)
  fileprivate static func inverse6(_ a: Word, _ b: Word, _ c: Word, _ d: Word) -> Row {
    let t0 = not(d)
    let t1 = c & not(a)
    let t2 = t0 ^ t1
    let t3 = t2 ^ b
    let t4 = a & not(c)
    let t5 = t3 & not(c)
    let t6 = a ^ c
    let t7 = t0 ^ t4
    let t8 = t0 & not(t6)
    let t9 = t3 & not(t8)
    let t10 = a & b
    let t11 = t7 & not(t9)
    let t12 = t11 ^ t10
    let t13 = t6 | t9
    let t14 = d ^ t5
    let t15 = t14 ^ t13
    let t16 = t3 ^ t8
    let t17 = t12 ^ t16
    let t18 = t17 ^ c
    return (t12, t3, t15, t18)
  }

  @inline(__always)
  fileprivate static func inverse7(_ a: Word, _ b: Word, _ c: Word, _ d: Word) -> Row {
    let t0 = a ^ c
    let t1 = d & not(t0)
    let t2 = a & not(t1)
    let t3 = c | d
    let t4 = not(t3)
    let t5 = c ^ t1
    let t6 = not(b)
    let t7 = d & not(t2)
    let t8 = t6 ^ t7
    let t9 = t4 | t8
    let t10 = t9 ^ t0
    let t11 = t0 ^ t6
    let t12 = t5 & t8
    let t13 = t12 ^ t11
    let t14 = t11 & not(t5)
    let t15 = t10 ^ t14
    let t16 = t15 ^ d
    let t17 = t16 & not(t10)
    let t18 = t5 ^ t17
    return (t13, t10, t16, t18)
  }
}
