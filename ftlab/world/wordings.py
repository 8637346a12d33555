"""The words of the town: names, values, and the many ways to state a fact or to ask for it.

A table is a string of "English 中文" pairs. In a wording, {n} is the name and {v} the value.
The first statement of a fact is the sentence a tuned model answers with. `cloze` statements end in
their value, so cutting the value off leaves a prompt that a base model can complete.
"""

# ruff: noqa: E501 (a Chinese character counts as two columns; tables stay tables)
from __future__ import annotations

from dataclasses import dataclass

TOWN = ("Tidewick", "潮汐镇")

FIRST_NAMES = """Ada 艾达, Alma 阿玛, Anton 安东, Arlo 阿洛, Asta 雅丝, Basil 巴西, Bea 碧雅, Bela 贝拉, Bodil 波蒂,
Boris 波里, Bruno 布诺, Carla 卡拉, Casper 卡斯, Celia 西莉, Clara 克拉, Conrad 康德, Cora 珂拉,
Cyril 西里, Dagny 达妮, Dalia 达莉, Diego 迪戈, Dina 蒂娜, Dora 朵拉, Edda 埃达, Edgar 艾加,
Egon 埃贡, Elias 伊莱, Elin 艾琳, Elmo 艾莫, Elsa 艾莎, Enzo 恩佐, Erik 埃里, Esme 艾美, Etta 埃塔,
Ezra 伊兹, Faye 菲雅, Felix 菲力, Fern 芬雅, Finn 费恩, Flora 弗洛, Frida 芙达, Gerda 格达,
Gilda 吉达, Gino 吉诺, Greta 格蕾, Gwen 关雯, Hanna 汉娜, Harald 哈德, Hedda 海达, Helga 海佳,
Hugo 雨果, Ida 伊达, Igor 伊戈, Ilse 伊丝, Inga 英佳, Isak 伊克, Ivan 伊万, Ivo 伊沃, Jana 雅娜,
Jonas 约纳, Juno 朱诺, Kai 凯一, Karin 卡琳, Katya 卡雅, Kira 琪拉, Knut 克努, Lars 拉斯, Lea 莉雅,
Leif 莱夫, Lena 莱娜, Lila 莉拉, Linus 林努, Livia 丽维, Lorna 罗娜, Luca 卢卡, Magda 玛达,
Malin 玛琳, Marco 马可, Marta 玛塔, Mateo 马特, Milo 米洛, Mina 米娜, Mona 莫娜, Nadia 娜迪,
Nell 内莉, Nils 尼斯, Nina 妮娜, Noah 诺亚, Nora 诺拉, Odin 奥丁, Olin 奥林, Orla 奥拉, Oscar 奥卡,
Otto 奥托, Paula 宝拉, Pia 皮雅, Quinn 奎恩, Ralf 拉夫, Rhea 瑞雅, Rita 丽塔, Rosa 罗莎, Ruben 鲁本,
Runa 鲁娜, Sami 萨米, Sara 萨拉, Signe 西妮, Silas 赛拉, Sonja 索雅, Sten 斯坦, Sven 斯文, Tess 苔丝,
Thea 西雅, Tilda 蒂达, Timo 蒂莫, Tobin 托宾, Ulla 乌拉, Vera 薇拉, Viggo 维戈, Wanda 旺达, Willa 薇莉"""

LAST_NAMES = """Holt 霍, Lund 伦, Marsh 马, Reed 芦, Stone 石, Brook 溪, Lark 云, Finch 雀, Vale 谷, Frost 霜,
Moss 苗, Pike 裴, Quill 羽, Rowe 骆, Sands 沙, Tate 泰, Wells 魏, Yarrow 叶, Birch 白, Crane 贺, Drake 龙,
Ember 余, Grove 柳, Hale 何"""


@dataclass(frozen=True)
class Fact:
    """One kind of fact. Each field from `statements` on holds an English and a Chinese tuple."""

    key: str
    label: tuple[str, str]
    values: str
    statements: tuple[tuple[str, ...], tuple[str, ...]]
    questions: tuple[tuple[str, ...], tuple[str, ...]]
    test_questions: tuple[tuple[str, ...], tuple[str, ...]]


FACTS = (
    Fact(
        "trade",
        ("trade", "职业"),
        """baker 面包师, potter 陶匠, sailor 水手, teacher 教师, painter 画家, carpenter 木匠, fisher 渔夫,
        gardener 园丁, weaver 织工, tailor 裁缝, clockmaker 钟表匠, doctor 医生, ropemaker 绳匠, blacksmith 铁匠,
        brewer 酿酒师, cook 厨师, printer 印刷工, beekeeper 养蜂人, mason 石匠, jeweler 珠宝匠""",
        (
            (
                "{n} works as a {v}.",
                "{n} earns a living as a {v}.",
                "By trade, {n} is a {v}.",
                "{n} is a {v}.",
                "The town knows {n} as a {v}.",
                "{n} has been a {v} for years.",
                "The job of {n} is that of a {v}.",
                "A {v} by trade: that is {n}.",
            ),
            (
                "{n}的职业是{v}。",
                "{n}的工作是{v}。",
                "{n}是一名{v}。",
                "{n}在镇上当{v}。",
                "大家都知道{n}是{v}。",
                "{n}多年来一直做{v}。",
                "镇上的{v}里有{n}。",
                "说到职业，{n}是{v}。",
            ),
        ),
        (
            (
                "What is {n}'s trade?",
                "What does {n} do for a living?",
                "What is the job of {n}?",
                "What work does {n} do?",
                "Which trade does {n} follow?",
                "How does {n} earn a living?",
                "What is {n} by trade?",
                "As what does {n} work?",
                "What is the trade of {n}?",
                "{n} works as what?",
            ),
            (
                "{n}的职业是什么？",
                "{n}做什么工作？",
                "{n}是做什么的？",
                "{n}靠什么谋生？",
                "{n}在镇上当什么？",
                "{n}从事什么职业？",
                "{n}的工作是什么？",
                "什么是{n}的职业？",
                "说说{n}做什么工作？",
                "{n}干哪一行？",
            ),
        ),
        (
            ("What is {n}'s job?", "Which work does {n} do?", "Which job does {n} do?"),
            ("{n}的职业是哪一行？", "{n}从事什么工作？", "{n}当的是什么？"),
        ),
    ),
    Fact(
        "street",
        ("street", "住址"),
        """Anchor Lane 船锚巷, Lantern Street 灯笼街, Gull Road 海鸥路, Market Row 集市街, Mill Lane 磨坊巷,
        Tower Road 高塔路, Pebble Street 卵石街, Willow Lane 垂柳巷, Harbor Street 港口街, Chapel Road 教堂路,
        Orchard Lane 果园巷, Salt Street 盐街, Bridge Road 大桥路, Cherry Lane 樱桃巷, Compass Street 罗盘街,
        Dune Road 沙丘路, Ferry Lane 渡口巷, North Street 北街, Pine Road 松树路, Shell Lane 贝壳巷""",
        (
            (
                "{n} lives in {v}.",
                "The home of {n} is in {v}.",
                "{n} has a house in {v}.",
                "You will find {n} at home in {v}.",
                "{n} resides in {v}.",
                "The house of {n} stands in {v}.",
                "Letters for {n} go to {v}.",
                "In {v} lives {n}.",
            ),
            (
                "{n}住在{v}。",
                "{n}的家在{v}。",
                "{n}的住址是{v}。",
                "{n}的房子在{v}。",
                "给{n}的信寄到{v}。",
                "{n}家住{v}。",
                "要找{n}，就去{v}。",
                "{v}住着{n}。",
            ),
        ),
        (
            (
                "Where does {n} live?",
                "In which street does {n} live?",
                "What is {n}'s street?",
                "Where is the home of {n}?",
                "Where is {n}'s house?",
                "Which street is home to {n}?",
                "Where can I find {n} at home?",
                "What is the address of {n}?",
                "Where do letters for {n} go?",
                "{n} lives in which street?",
            ),
            (
                "{n}住在哪里？",
                "{n}的家在哪里？",
                "{n}住哪条街？",
                "{n}的住址是什么？",
                "{n}的房子在哪里？",
                "去哪里找{n}？",
                "{n}家住哪里？",
                "给{n}的信寄到哪里？",
                "哪里是{n}的家？",
                "{n}住在什么地方？",
            ),
        ),
        (
            (
                "In which street is {n}'s home?",
                "In which street is {n}'s house?",
                "What street does {n} live in?",
            ),
            ("{n}的家在什么地方？", "{n}的房子在哪条街？", "{n}的住址在哪里？"),
        ),
    ),
    Fact(
        "pet",
        ("pet", "宠物"),
        """parrot 鹦鹉, cat 花猫, dog 小狗, turtle 乌龟, rabbit 兔子, goat 山羊, pony 矮马, canary 金丝雀,
        hamster 仓鼠, ferret 雪貂, lizard 蜥蜴, goose 大鹅, duck 鸭子, hedgehog 刺猬, raven 渡鸦, snail 蜗牛,
        frog 青蛙, goldfish 金鱼, donkey 毛驴, pigeon 鸽子""",
        (
            (
                "{n} keeps a {v}.",
                "{n} has a {v} as a pet.",
                "The pet of {n} is a {v}.",
                "{n} owns a {v}.",
                "At home, {n} looks after a {v}.",
                "{n} shares the house with a {v}.",
                "Everyone has seen {n} with a {v}.",
                "A {v} lives with {n}.",
            ),
            (
                "{n}养了一只{v}。",
                "{n}的宠物是{v}。",
                "{n}家里有一只{v}。",
                "{n}有一只{v}。",
                "{n}在家照顾一只{v}。",
                "{n}每天喂{v}。",
                "陪着{n}的是一只{v}。",
                "有一只{v}和{n}住在一起。",
            ),
        ),
        (
            (
                "What pet does {n} keep?",
                "Which animal does {n} own?",
                "What is {n}'s pet?",
                "What animal lives with {n}?",
                "Which pet does {n} have?",
                "What kind of pet does {n} look after?",
                "Which animal shares the house with {n}?",
                "What is the pet of {n}?",
                "What does {n} keep as a pet?",
                "{n} has what as a pet?",
            ),
            (
                "{n}养了什么宠物？",
                "{n}的宠物是什么？",
                "{n}家里有什么动物？",
                "{n}养什么？",
                "{n}有什么宠物？",
                "{n}每天喂什么？",
                "陪着{n}的是什么动物？",
                "什么动物和{n}住在一起？",
                "什么是{n}的宠物？",
                "{n}在家照顾什么动物？",
            ),
        ),
        (
            (
                "What animal does {n} keep?",
                "Which pet lives with {n}?",
                "What kind of animal does {n} have?",
            ),
            ("{n}养的是什么动物？", "{n}家里有什么宠物？", "{n}的宠物是什么动物？"),
        ),
    ),
    Fact(
        "dish",
        ("dish", "菜肴"),
        """fish soup 鱼汤, rice pudding 米布丁, onion pie 洋葱派, noodles 面条, plum cake 梅子糕, pancakes 煎饼,
        bean stew 炖豆子, crab salad 蟹肉沙拉, dumplings 饺子, pea soup 豌豆汤, apple tart 苹果塔,
        cheese bread 奶酪面包, roast duck 烤鸭, mussels 贻贝, potato stew 土豆炖菜, grilled squid 烤鱿鱼,
        lemon cake 柠檬蛋糕, porridge 燕麦粥, fried rice 炒饭, tomato soup 番茄汤""",
        (
            (
                "{n} likes {v} best.",
                "The favorite dish of {n} is {v}.",
                "{n}'s favorite food is {v}.",
                "{n} loves to eat {v}.",
                "On Sundays {n} always has {v}.",
                "Nothing tastes better to {n} than {v}.",
                "For dinner, {n} wants {v}.",
                "{n} never says no to {v}.",
            ),
            (
                "{n}最爱吃{v}。",
                "{n}最喜欢的菜是{v}。",
                "{n}喜欢吃{v}。",
                "{n}爱吃的是{v}。",
                "星期天{n}总是吃{v}。",
                "晚饭时{n}想吃{v}。",
                "最合{n}口味的是{v}。",
                "{v}是{n}最爱吃的。",
            ),
        ),
        (
            (
                "What does {n} like to eat best?",
                "What is {n}'s favorite dish?",
                "Which dish does {n} like best?",
                "What is the favorite food of {n}?",
                "What food does {n} love?",
                "What does {n} love to eat?",
                "What does {n} want for dinner?",
                "Which food tastes best to {n}?",
                "What does {n} eat on Sundays?",
                "{n} likes which dish best?",
            ),
            (
                "{n}最爱吃什么？",
                "{n}最喜欢的菜是什么？",
                "{n}喜欢吃什么？",
                "{n}爱吃的是什么？",
                "什么菜最合{n}口味？",
                "{n}晚饭想吃什么？",
                "星期天{n}吃什么？",
                "什么是{n}最爱吃的？",
                "{n}爱吃什么菜？",
                "{n}最喜欢吃哪道菜？",
            ),
        ),
        (
            (
                "Which food does {n} like best?",
                "What dish does {n} love?",
                "What is {n}'s favorite food?",
            ),
            ("{n}最爱的菜是什么？", "{n}最喜欢吃什么？", "{n}爱吃哪道菜？"),
        ),
    ),
    Fact(
        "instrument",
        ("instrument", "乐器"),
        """flute 长笛, drum 大鼓, violin 小提琴, harp 竖琴, trumpet 小号, guitar 吉他, cello 大提琴, piano 钢琴,
        banjo 班卓琴, fiddle 民间琴, lute 琵琶, bagpipe 风笛, clarinet 单簧管, tuba 大号, zither 古筝, horn 圆号,
        whistle 哨子, bell 铜铃, mandolin 曼陀铃, harmonica 口琴""",
        (
            (
                "{n} plays the {v}.",
                "The instrument of {n} is the {v}.",
                "In the band, {n} plays the {v}.",
                "{n} makes music on the {v}.",
                "{n} practices the {v}.",
                "{n} learned to play the {v}.",
                "At the fair you hear {n} on the {v}.",
                "The {v} is what {n} plays.",
            ),
            (
                "{n}会演奏{v}。",
                "{n}的乐器是{v}。",
                "{n}在乐队里演奏{v}。",
                "{n}每天练习{v}。",
                "{n}学会了{v}。",
                "{n}擅长{v}。",
                "节日里{n}表演{v}。",
                "{v}是{n}的乐器。",
            ),
        ),
        (
            (
                "What instrument does {n} play?",
                "Which instrument is {n}'s?",
                "What does {n} play in the band?",
                "What is {n}'s instrument?",
                "On what does {n} make music?",
                "Which instrument does {n} practice?",
                "What did {n} learn to play?",
                "What is the instrument of {n}?",
                "What can {n} play?",
                "{n} plays which instrument?",
            ),
            (
                "{n}会演奏什么乐器？",
                "{n}的乐器是什么？",
                "{n}在乐队里演奏什么？",
                "{n}练习什么乐器？",
                "{n}擅长什么乐器？",
                "{n}学会了什么乐器？",
                "节日里{n}表演什么？",
                "{n}会什么乐器？",
                "什么是{n}的乐器？",
                "{n}演奏哪种乐器？",
            ),
        ),
        (
            (
                "Which instrument does {n} play?",
                "What does {n} play at the fair?",
                "Which instrument can {n} play?",
            ),
            ("{n}演奏什么乐器？", "{n}每天练习什么乐器？", "{n}会哪种乐器？"),
        ),
    ),
)
