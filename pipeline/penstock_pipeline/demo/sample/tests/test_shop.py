import unittest

from shop import answer


class Shop(unittest.TestCase):
    def test_has_goods(self) -> None:
        status, goods = answer("/api/goods")
        self.assertEqual(status, 200)
        self.assertIn("kettle", goods)

    def test_says_when_there_is_nothing(self) -> None:
        self.assertEqual(answer("/nowhere")[0], 404)
